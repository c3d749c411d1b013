"""What the suite keeps of a wide matrix."""

from __future__ import annotations

from tests.breadth import every_other, one_in


def kept(cases: list) -> list[tuple]:
    return [case.values for case in cases if not case.marks]


def test_every_combination_is_there_and_one_in_so_many_stays_in_the_suite() -> None:
    cases = one_in(3, "abcd", range(6))
    assert [case.values for case in cases] == [(letter, number) for letter in "abcd" for number in range(6)]
    assert len(kept(cases)) == 8
    assert {mark.name for case in cases for mark in case.marks} == {"slow"}


def test_every_value_of_every_axis_stays_in_the_suite() -> None:
    cases = kept(one_in(3, "abcd", range(6), (True, False)))
    assert [{case[axis] for case in cases} for axis in range(3)] == [set("abcd"), set(range(6)), {True, False}]


def test_more_stays_where_an_axis_is_too_short() -> None:
    assert len(kept(one_in(3, "abcd", (True, False)))) == 4
    assert len(kept(one_in(3, "abcd", (True,)))) == 4


def test_of_an_empty_axis_nothing_is_left() -> None:
    assert one_in(2, "abcd", ()) == []


def test_every_other_case_stays() -> None:
    assert kept(every_other([("a", 1), ("b", 2), ("c", 3)])) == [("a", 1), ("c", 3)]
