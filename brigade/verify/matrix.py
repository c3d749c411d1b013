"""Many settings, one answer: every row of the matrix is played with the same requests and compared with the first one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from brigade.errors import EngineStopped, RankFailed, UserError, in_one_line
from brigade.verify.compare import Differences, Terms, compare_passes, out_of_bounds
from brigade.verify.models import Models
from brigade.verify.play import Ask, play
from brigade.verify.record import METRICS, Record
from brigade.verify.run import Run


@dataclass(frozen=True)
class Row:
    """`error`: why it says nothing, such as a preemption that did not happen. The reference has no differences of its own, but
    the `record` that the others are compared with."""

    run: Run
    differences: Differences | None = None
    measured: dict[str, float] | None = None
    error: str | None = None
    record: Record | None = None

    @property
    def verdict(self) -> str:
        if self.error is not None:
            return "ERROR"
        if self.differences is None:
            return "reference"
        return "same" if self.differences.is_same else "DIFFERENT"

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.run.name, "verdict": self.verdict, "error": self.error, "measured": self.measured,
            **({} if self.differences is None else self.differences.as_dict()),
        }  # fmt: skip


def exit_code(rows: Sequence[Row]) -> int:
    """As of `check`: 1 where something differs, 2 where something could not be run and nothing differs."""
    verdicts = [row.verdict for row in rows]
    if "DIFFERENT" in verdicts:
        return 1
    return 2 if "ERROR" in verdicts or "same" not in verdicts else 0


def run_matrix(models: Models, runs: Sequence[Run], asks: Sequence[Ask]) -> Iterator[Row]:
    """Rows as they come, the reference first; where that cannot be run, its error goes to the caller."""
    expected: Record | None = None
    for run in runs:
        metrics, chosen = (("ids",), plain_asks(asks)) if run.plain else (METRICS, asks)
        if not chosen:
            yield Row(run, error="what this row is for did not happen: no request is greedy without penalties; add one")
            continue
        try:
            records = play(models.get(run), run, chosen, metrics)
        except (UserError, EngineStopped, RankFailed) as error:
            if expected is None:
                raise
            models.after(error)
            yield Row(run, error=in_one_line(error))
            continue
        measured = records[-1].measured
        if expected is None:
            expected = records[0]
            expected.check_golden()
            yield Row(run, None, measured, record=expected)
            continue
        yield _compared(run, expected.keeping(("ids",), [ask.name for ask in chosen]) if run.plain else expected, records, measured)


GREEDY = {"temperature", "max_tokens", "logprobs", "prompt_logprobs", "ignore_eos", "stop_token_ids", "stop", "n"}


def plain_asks(asks: Sequence[Ask]) -> list[Ask]:
    """The greedy requests, without what would ask for more than their ids."""
    greedy = [ask for ask in asks if ask.params.get("temperature", 1.0) == 0 and set(ask.params) <= GREEDY]
    silent = ("logprobs", "prompt_logprobs")
    return [replace(ask, params={k: v for k, v in ask.params.items() if k not in silent}) for ask in greedy]


def _compared(run: Run, expected: Record, records: Sequence[Record], measured: dict[str, float]) -> Row:
    """A row whose special thing did not happen proves nothing, however equal it is."""
    try:
        differences = compare_passes(expected, records, Terms(metrics=records[0].metrics))
    except UserError as error:
        return Row(run, None, measured, in_one_line(error))
    missed = [text for _, text in out_of_bounds(measured, run.at_most, run.at_least)]
    return Row(run, differences, measured, f"what this row is for did not happen: {missed[0]}" if missed else None)
