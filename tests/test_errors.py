"""A value out of a request or a file is shown in one short line, whatever it is."""

from __future__ import annotations

import pytest

from brigade.errors import shown_as_json


class Odd:
    def __repr__(self) -> str:
        raise OSError("no words")


def inside_itself() -> list:
    made: list = []
    made.append(made)
    return made


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "null"), ("a\nb", '"a\\nb"'), ("caf\u00e9", '"caf\u00e9"'), ("\ud800", '"\\ud800"'), ({1, 2}, '"{1, 2}"'),
        ({(1, 2): 3}, "{(1, 2): 3}"), ({b"a": 3}, "{b'a': 3}"), (inside_itself(), "[[...]]"), (Odd(), '"Odd"'),
        ({(1, 2): Odd()}, "dict"), ("a\u2028b", '"a b"'), ("x" * 100, '"' + "x" * 56 + "..."),
    ],
)  # fmt: skip
def test_a_value_is_shown_in_one_short_line(value: object, expected: str) -> None:
    assert shown_as_json(value) == expected
