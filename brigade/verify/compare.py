"""The only comparer of records. Whatever is missing on either side is a difference: nothing is equal because nothing was there.

Equal numerics ids: every bit must be the same. Unlike ids: log-probabilities must be within the tolerance that the case states,
digests are not compared, and token ids must be equal all the same. Where two tokens are nearly as likely as each other, a greedy
id may fall the other way; from there on the two runs read different texts, and to pass over the rest would be to pass by absence.
So that is a difference too, told with both log-probabilities. Without a tolerance unlike numerics ids are refused.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from brigade.errors import ConfigError
from brigade.verify.record import METRICS, Record, RequestRecord, SampleRecord


@dataclass(frozen=True)
class Terms:
    """What is compared, and how strictly. `at_most` and `at_least` are bounds of what was measured."""

    metrics: Sequence[str] = METRICS
    tolerance: float | None = None
    at_most: Mapping[str, float] = field(default_factory=dict)
    at_least: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """`token`: counted from the first one of the answer; None where it is not about one."""

    request: str | None
    sample: int
    token: int | None
    kind: str  # "ids", "logprobs", "digests", or what else it is about
    text: str

    @property
    def where(self) -> str:
        parts = [] if self.request is None else [f"request {self.request}"]
        parts += [f"sample {self.sample}"] if self.sample else []
        parts += [] if self.token is None else [f"token {self.token}"]
        return ", ".join(parts) or "the record"

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


@dataclass(frozen=True)
class Differences:
    found: tuple[Difference, ...]
    exact: bool  # by bits, not within a tolerance
    compared: int  # tokens
    largest: float  # difference of two log-probabilities of one token; NaN where one of them is NaN

    @property
    def is_same(self) -> bool:
        return not self.found

    @property
    def first(self) -> Difference | None:
        return self.found[0] if self.found else None

    def as_dict(self) -> dict[str, Any]:
        return {
            "same": self.is_same, "exact": self.exact, "compared_tokens": self.compared,
            "largest_logprob_difference": self.largest if math.isfinite(self.largest) else str(self.largest),
            "differences": [
                {"request": one.request, "sample": one.sample, "token": one.token, "kind": one.kind, "text": one.text}
                for one in self.found
            ],
        }  # fmt: skip


def is_exact(expected: str, found: str, tolerance: float | None) -> bool:
    """Whether two numerics ids promise the same bits; without a tolerance others are refused."""
    if expected != found and tolerance is None:
        raise ConfigError(
            f"recorded with {expected}, computed with {found}: these give different bits; ask for the same numerics, or state a "
            "tolerance in the case"
        )
    return expected == found


def compare(expected: Record, found: Record, terms: Terms) -> Differences:
    exact = is_exact(expected.numerics_id, found.numerics_id, terms.tolerance)
    tally = _Tally(0.0 if exact else terms.tolerance or 0.0, exact)
    differences = [*_compare_heads(expected, found, terms)]
    for name in sorted({*expected.requests, *found.requests}, key=_order):
        one, other = expected.requests.get(name), found.requests.get(name)
        if one is None or other is None:
            where = "is only in the run, not in the golden record" if one is None else "is missing from the run"
            differences.append(Difference(name, 0, None, "requests", where))
        else:
            differences += _compare_requests(name, one, other, terms, tally)
    if not tally.compared:
        differences.append(Difference(None, 0, None, "requests", "nothing was compared: no request has a token on both sides"))
    return Differences(tuple(differences), exact, tally.compared, tally.largest)


def compare_passes(expected: Record, passes: Sequence[Record], terms: Terms) -> Differences:
    """Every pass of a run with one record. What was measured adds up, so bounds hold for the last one."""
    unbound = replace(terms, at_most={}, at_least={})
    each = [compare(expected, found, unbound) for found in passes[:-1]] + [compare(expected, passes[-1], terms)]
    if len(each) == 1:
        return each[0]
    found = [
        replace(one, text=f"pass {number}: {one.text}")
        for number, differences in enumerate(each, start=1)
        for one in differences.found
    ]
    largest = max((one.largest for one in each), key=lambda value: (math.isnan(value), value))
    return Differences(tuple(found), each[0].exact, sum(one.compared for one in each), largest)


class _Tally:
    def __init__(self, tolerance: float, exact: bool) -> None:
        self.tolerance, self.exact, self.compared, self.largest = tolerance, exact, 0, 0.0

    def agree(self, one: float, other: float) -> bool:
        """Two log-probabilities of one token. A NaN equals nothing, itself included."""
        apart = abs(one - other) if one != other else 0.0
        if math.isnan(apart) or apart > self.largest:  # no number is above a NaN, so one that was found stays
            self.largest = apart
        if math.isnan(one) or math.isnan(other):
            return False
        return _bits(one) == _bits(other) if self.exact else apart <= self.tolerance


def _compare_heads(expected: Record, found: Record, terms: Terms) -> Iterator[Difference]:
    if expected.fingerprint != found.fingerprint:
        yield Difference(
            None, 0, None, "fingerprint",
            f"another model: fingerprint {expected.fingerprint} expected, {found.fingerprint} found "
            "(weights, config, dtype, quantization, tokenizer or end ids are not those that were recorded)",
        )  # fmt: skip
    for who, record in (("the golden record", expected), ("the run", found)):
        for metric in terms.metrics:
            if metric not in record.metrics:
                yield Difference(None, 0, None, metric, f"{who} lacks the metric {metric!r}, which the case wants")
        for metric in record.metrics:
            if metric not in terms.metrics:
                yield Difference(None, 0, None, metric, f"{who} has the metric {metric!r}, which the case does not want")
    for name, text in out_of_bounds(found.measured, terms.at_most, terms.at_least):
        yield Difference(None, 0, None, name, text)


def out_of_bounds(
    measured: Mapping[str, float], at_most: Mapping[str, float], at_least: Mapping[str, float]
) -> Iterator[tuple[str, str]]:
    """Which bounds do not hold, in words."""
    for bounds, word in ((at_most, "at most"), (at_least, "at least")):
        for name, limit in bounds.items():
            value = measured.get(name)
            if value is None:
                yield name, f"{name} was not measured, but it should be {word} {limit:g}"
            elif not (value >= limit if bounds is at_least else value <= limit):
                yield name, f"{name} is {value:g}; it should be {word} {limit:g}"


def _compare_requests(
    name: str, expected: RequestRecord, found: RequestRecord, terms: Terms, tally: _Tally
) -> Iterator[Difference]:
    if expected.prompt_token_ids != found.prompt_token_ids:
        place = _first(expected.prompt_token_ids, found.prompt_token_ids)
        yield Difference(name, 0, None, "prompt", f"the prompt has other ids from position {place} on: {_lengths(expected, found)}")
    yield from _compare_prompt_logprobs(name, expected, found, tally)
    if len(expected.samples) != len(found.samples):
        text = f"{len(expected.samples)} samples expected, {len(found.samples)} found"
        yield Difference(name, 0, None, "samples", text)
    for index, (one, other) in enumerate(zip(expected.samples, found.samples, strict=False)):
        for token, kind, text in sorted(_compare_samples(one, other, terms, tally), key=lambda each: each[0]):
            yield Difference(name, index, token if token >= 0 else None, kind, text)


def _compare_prompt_logprobs(name: str, expected: RequestRecord, found: RequestRecord, tally: _Tally) -> Iterator[Difference]:
    one, other = expected.prompt_logprobs, found.prompt_logprobs
    if one is None and other is None:
        return
    if one is None or other is None or len(one) != len(other):
        yield Difference(
            name, 0, None, "prompt_logprobs", f"prompt log-probabilities: {_count(one)} expected, {_count(other)} found"
        )
        return
    wrong = []
    for place, (left, right) in enumerate(zip(one, other, strict=True)):
        if left is None or right is None:
            agreed = left is right
        else:
            tally.compared += 1
            agreed = tally.agree(left, right)
        if not agreed:
            wrong.append(place)
    if wrong:
        left, right = one[wrong[0]], other[wrong[0]]
        text = f"prompt position {wrong[0]}: log-probability {left!r} expected, {right!r} found{_apart(left, right)}"
        yield Difference(name, 0, None, "prompt_logprobs", text)


def _compare_samples(expected: SampleRecord, found: SampleRecord, terms: Terms, tally: _Tally) -> Iterator[tuple[int, str, str]]:
    """(token, kind, text) of each kind's first difference; token -1 where it is about none."""
    split = _first(expected.token_ids, found.token_ids)  # the first id that differs; from there on the two read unlike texts
    same_text = min(len(expected.token_ids), len(found.token_ids)) if split is None else split
    tally.compared += same_text
    for name in ("logprobs", "digests"):
        yield from _compare_presence(name, expected, found, terms)
    logprobs = _pairs(expected.logprobs, found.logprobs, same_text)
    wrong = [place for place, (one, other) in enumerate(logprobs) if not tally.agree(one, other)]
    if wrong:
        one, other = logprobs[wrong[0]]
        yield wrong[0], "logprobs", f"log-probability {one!r} expected, {other!r} found{_apart(one, other)}"
    if tally.exact:  # the logits of a token are made before it is drawn, so those of the first other one are comparable
        digests = _pairs(expected.digests, found.digests, same_text + 1)
        wrong = [place for place, (one, other) in enumerate(digests) if one != other]
        if wrong:
            one, other = digests[wrong[0]]
            yield wrong[0], "digests", f"the logits differ (digest {one} expected, {other} found)"
    if split is not None:
        yield split, "ids", _split_text(expected, found, split)
    if expected.finish_reason != found.finish_reason:
        text = f"finish reason {expected.finish_reason!r} expected, {found.finish_reason!r} found"
        yield max(len(found.token_ids) - 1, 0), "finish_reason", text


def _compare_presence(name: str, expected: SampleRecord, found: SampleRecord, terms: Terms) -> Iterator[tuple[int, str, str]]:
    """A wanted metric has one entry for each id, an unwanted one is not there."""
    for who, sample in (("the golden record", expected), ("the run", found)):
        values, ids = getattr(sample, name), len(sample.token_ids)
        if name not in terms.metrics:
            if values is not None:
                yield -1, name, f"{who} has {name}, which the case does not want"
        elif values is None or len(values) != ids:
            yield -1, name, f"{who} has {_count(values)} {name} for {ids} ids"


def _split_text(expected: SampleRecord, found: SampleRecord, split: int) -> str:
    words = []
    for sample in (expected, found):
        if split >= len(sample.token_ids):
            words.append(f"the end after {len(sample.token_ids)} ids")
        else:
            logprobs = sample.logprobs or ()
            own = f" (log-probability {logprobs[split]:.6g})" if split < len(logprobs) else ""
            words.append(f"id {sample.token_ids[split]}{own}")
    return f"{words[0]} expected, {words[1]} found"


def _pairs(one: Sequence[Any] | None, other: Sequence[Any] | None, most: int) -> list[tuple[Any, Any]]:
    return list(zip(one or (), other or (), strict=False))[:most]


def _first(one: Sequence[int], other: Sequence[int]) -> int | None:
    """Where two lists begin to differ; the shorter one's end counts."""
    place = next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    return min(len(one), len(other)) if place is None and len(one) != len(other) else place


def _lengths(expected: RequestRecord, found: RequestRecord) -> str:
    return f"{len(expected.prompt_token_ids)} ids expected, {len(found.prompt_token_ids)} found"


def _count(values: Sequence[Any] | None) -> str:
    return "no" if values is None else str(len(values))


def _apart(one: float | None, other: float | None) -> str:
    return "" if one is None or other is None else f", {abs(one - other):.3g} apart"


def _bits(value: float) -> bytes:
    return struct.pack("<d", value)


def _order(name: str) -> tuple[int, str]:
    """Numbers by size."""
    return (int(name), "") if name.isdecimal() else (1 << 62, name)
