"""The comparer: every kind of difference is found and told with its place, and nothing passes because it is not there."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from brigade.errors import ConfigError
from brigade.verify.compare import Terms, compare, compare_passes
from brigade.verify.record import METRICS, Record, RequestRecord, SampleRecord
from tests.verify.builders import record, with_sample

EXACT = Terms()
LOOSE = Terms(tolerance=0.01)
NEXT = math.nextafter(-1.25, 0)  # the last bit


def changed(**changes) -> dict[str, RequestRecord]:
    return {**record().requests, **changes}


def test_equal_records_are_the_same_and_say_how_much_was_compared() -> None:
    found = compare(record(), record(), EXACT)
    assert found.is_same and found.exact and found.compared == 5 and found.largest == 0.0


# what was found: (request, token, kind of the first difference), and words of its text
DIFFERENT: dict[str, tuple[Record, tuple, str]] = {
    "an id": (with_sample("0", token_ids=(5, 60, 7)), ("0", 1, "ids"), "id 6 (log-probability -1.25) expected, id 60"),
    "an answer that ends early": (
        with_sample("0", token_ids=(5,), logprobs=(-0.5,), digests=("aa",)), ("0", 1, "ids"), "the end after 1 ids found",
    ),
    "an answer that goes on": (
        with_sample("1", token_ids=(8, 9, 1), logprobs=(-2.0, -0.75, -1.0), digests=("dd", "ee", "ff")), ("1", 2, "ids"),
        "the end after 2 ids expected, id 1",
    ),
    "the last bit of a log-probability": (with_sample("0", logprobs=(-0.5, NEXT, -0.1)), ("0", 1, "logprobs"), "2.22e-16 apart"),
    "a log-probability that is no number": (
        with_sample("0", logprobs=(-0.5, math.nan, -0.1)), ("0", 1, "logprobs"), "nan found"),
    "a digest": (with_sample("1", digests=("dd", "xx")), ("1", 1, "digests"), "digest ee expected, xx found"),
    "a finish reason": (with_sample("1", finish_reason="length"), ("1", 1, "finish_reason"), "'stop' expected, 'length' found"),
    "a missing request": (record(requests={"0": record().requests["0"]}), ("1", None, "requests"), "is missing from the run"),
    "one request more": (
        record(requests=changed(**{"2": record().requests["1"]})), ("2", None, "requests"), "is only in the run"),
    "no requests at all": (record(requests={}), ("0", None, "requests"), "is missing from the run"),
    "another prompt": (
        record(requests=changed(**{"1": RequestRecord((4,), record().requests["1"].samples)})), ("1", None, "prompt"),
        "other ids from position 0"),
    "a missing sample": (
        record(requests=changed(**{"1": RequestRecord((3,), ())})), ("1", None, "samples"), "1 samples expected, 0 found"),
    "another model": (record(fingerprint="f-2"), (None, None, "fingerprint"), "fingerprint f-1 expected, f-2 found"),
    "a metric that the run lacks": (record(metrics=("ids", "logprobs")), (None, None, "digests"), "the run lacks the metric"),
    "log-probabilities that are not there": (with_sample("0", logprobs=None), ("0", None, "logprobs"), "no logprobs for 3 ids"),
    "too few log-probabilities": (with_sample("0", logprobs=(-0.5,)), ("0", None, "logprobs"), "has 1 logprobs for 3 ids"),
    "digests that are not there": (with_sample("0", digests=None), ("0", None, "digests"), "no digests for 3 ids"),
    "prompt log-probabilities that nobody recorded": (
        record(requests=changed(**{"0": RequestRecord((1, 2), record().requests["0"].samples, (None, -1.0))})),
        ("0", None, "prompt_logprobs"), "no expected, 2 found"),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENT)
def test_every_kind_of_difference_is_found_with_its_place(name: str) -> None:
    other, place, words = DIFFERENT[name]
    found = compare(record(), other, EXACT)
    first = found.first
    assert first is not None and not found.is_same
    assert (first.request, first.token, first.kind) == place and words in str(first)


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_difference_is_one_from_both_sides(name: str) -> None:
    assert not compare(DIFFERENT[name][0], record(), EXACT).is_same


def test_a_nan_equals_nothing_and_stays_the_largest_difference() -> None:
    broken = with_sample("0", logprobs=(-0.5, math.nan, -0.1))
    for terms in (EXACT, LOOSE):
        found = compare(broken, broken, terms)
        assert not found.is_same and math.isnan(found.largest)
    assert math.isnan(compare_passes(broken, [broken, record()], EXACT).largest)


def test_two_zeros_of_unlike_sign_are_unlike_bits() -> None:
    plus, minus = (with_sample("0", logprobs=(zero, -1.25, -0.1)) for zero in (0.0, -0.0))
    assert not compare(plus, minus, EXACT).is_same and compare(plus, plus, EXACT).is_same


def test_two_records_of_nothing_are_not_the_same() -> None:
    found = compare(record(requests={}), record(requests={}), EXACT)
    assert [one.text for one in found.found] == ["nothing was compared: no request has a token on both sides"]


def test_what_follows_an_id_that_differs_is_not_compared_as_if_the_texts_were_equal() -> None:
    """The two runs read unlike texts from there on: a large difference behind it says nothing, and does not hide the place."""
    other = with_sample("0", token_ids=(50, 6, 7), logprobs=(-9.0, -9.0, -9.0), digests=("aa", "x", "y"))
    found = compare(record(), other, EXACT)
    assert [(one.token, one.kind) for one in found.found] == [(0, "ids")] and found.largest == 0.0


def test_the_logits_of_the_first_other_id_are_compared_too() -> None:
    other = with_sample("0", token_ids=(5, 60, 7), digests=("aa", "xx", "cc"))
    assert {(one.token, one.kind) for one in compare(record(), other, EXACT).found} == {(1, "ids"), (1, "digests")}


def test_a_metric_that_nobody_wants_is_a_difference() -> None:
    found = compare(record(), record(), Terms(metrics=("ids", "digests")))
    texts = [one.text for one in found.found]
    assert "the golden record has the metric 'logprobs', which the case does not want" in texts
    assert "the run has logprobs, which the case does not want" in texts


def test_requests_are_told_in_the_order_of_their_numbers() -> None:
    many = {str(number): record().requests["1"] for number in (10, 9, 2)}
    wrong = {name: RequestRecord((4,), one.samples) for name, one in many.items()}
    assert [one.request for one in compare(record(requests=many), record(requests=wrong), EXACT).found] == ["2", "9", "10"]


# Unlike numerics ids.


def test_unlike_numerics_ids_without_a_tolerance_are_refused_by_both_names() -> None:
    with pytest.raises(ConfigError, match="recorded with n-1, computed with n-2"):
        compare(record(), record(numerics_id="n-2"), EXACT)


def test_within_the_tolerance_digests_are_not_compared() -> None:
    sample = SampleRecord((5, 6, 7), "length", (-0.5, -1.245, -0.1), ("xx", "yy", "zz"))
    other = record(numerics_id="n-2", requests=changed(**{"0": RequestRecord((1, 2), (sample,))}))
    found = compare(record(), other, LOOSE)
    assert found.is_same and not found.exact and found.largest == pytest.approx(0.005)


def test_beyond_the_tolerance_is_a_difference() -> None:
    other = with_sample("0", logprobs=(-0.5, -1.2, -0.1))
    other = record(numerics_id="n-2", requests=other.requests)
    first = compare(record(), other, LOOSE).first
    assert first is not None and (first.request, first.token, first.kind) == ("0", 1, "logprobs") and "0.05 apart" in first.text


def test_an_id_that_falls_the_other_way_is_a_difference_under_a_tolerance_too() -> None:
    other = record(numerics_id="n-2", requests=with_sample("0", token_ids=(5, 6, 70)).requests)
    first = compare(record(), other, LOOSE).first
    assert first is not None and (first.token, first.kind) == (2, "ids") and "log-probability -0.1" in first.text


def test_digests_that_are_not_there_are_missed_under_a_tolerance_too() -> None:
    other = record(numerics_id="n-2", requests=with_sample("0", digests=None).requests)
    assert not compare(record(), other, LOOSE).is_same


def test_a_tolerance_does_not_soften_equal_numerics_ids() -> None:
    assert not compare(record(), with_sample("0", logprobs=(-0.5, NEXT, -0.1)), LOOSE).is_same


# Prompt log-probabilities, bounds, passes.


def test_prompt_logprobs_are_compared_place_by_place() -> None:
    def told(*values: float | None) -> Record:
        return record(requests=changed(**{"0": RequestRecord((1, 2), record().requests["0"].samples, values)}))

    assert compare(told(None, -1.0), told(None, -1.0), EXACT).is_same
    for wrong in (told(None, -1.0000001), told(None, None), told(None, math.nan), told(-1.0, -1.0)):
        first = compare(told(None, -1.0), wrong, EXACT).first
        assert first is not None and first.kind == "prompt_logprobs"


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (Terms(at_most={"seconds": 1.0}), "seconds is 2; it should be at most 1"),
        (Terms(at_least={"preemptions": 1}), "preemptions is 0; it should be at least 1"),
        (Terms(at_least={"together": 1}), "together was not measured"),
        (Terms(at_most={"steps": 9}), "steps is nan"),
    ],
)
def test_bounds_hold_for_what_was_measured(terms: Terms, words: str) -> None:
    first = compare(record(), record(measured={"seconds": 2.0, "preemptions": 0, "steps": math.nan}), terms).first
    assert first is not None and words in first.text


def test_what_was_measured_is_no_part_of_equality() -> None:
    assert compare(record(measured={"seconds": 1.0}, model="a"), record(measured={"seconds": 2.0}, model="b"), EXACT).is_same


def test_every_pass_is_compared_and_the_one_that_differs_is_named() -> None:
    terms = replace(EXACT, at_least={"cached_tokens": 8})
    first, second = record(measured={"cached_tokens": 0}), record(measured={"cached_tokens": 8})
    assert compare_passes(record(), [first, second], terms).is_same, "bounds are for all passes together"
    wrong = compare_passes(record(), [with_sample("0", digests=("aa", "bb", "zz")), second], terms)
    assert [(one.request, one.token, one.text.split(":")[0]) for one in wrong.found] == [("0", 2, "pass 1")]
    assert METRICS == ("ids", "logprobs", "digests")
