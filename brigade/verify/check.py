"""Record what a case says, and find it again: both play the case's requests, and `compare` alone decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from brigade.checkpoint.load import open_model
from brigade.errors import ConfigError, EngineStopped, RankFailed, UserError, in_one_line
from brigade.tokenizer import Tokenizer
from brigade.verify.case import Case
from brigade.verify.compare import Differences, compare_passes, is_exact
from brigade.verify.fleet import play_fleet
from brigade.verify.models import NO_OPTIONS, Models, RankOptions
from brigade.verify.play import play
from brigade.verify.record import Record, read_record, write_record
from brigade.verify.run import Change, Run

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Outcome:
    """Of one run. `error`: why it could not be run or compared; else `differences`, and what was found."""

    case: str
    run: str
    differences: Differences | None = None
    found: Record | None = None
    error: str | None = None

    @property
    def is_same(self) -> bool:
        return self.differences is not None and self.differences.is_same

    def as_dict(self) -> dict[str, Any]:
        found = self.found
        return {
            "case": self.case, "run": self.run, "same": self.is_same, "error": self.error,
            "numerics_id": None if found is None else found.numerics_id,
            "fingerprint": None if found is None else found.fingerprint,
            "measured": None if found is None else found.measured,
            **({} if self.differences is None else self.differences.as_dict()),
        }  # fmt: skip


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """0: all the same. 1: something differs. 2: something could not be run or compared, and nothing differs beyond that."""
    if any(one.differences is not None and not one.is_same for one in outcomes):
        return 1
    return 2 if not outcomes or any(one.error is not None for one in outcomes) else 0


def record_case(
    case: Case, force: bool = False, progress: Progress | None = None, options: RankOptions = NO_OPTIONS
) -> Record:  # fmt: skip
    """Write the golden file; one that is there stays unless `force` is given."""
    if case.golden.exists() and not force:
        raise ConfigError(f"{case.golden} is there already; check against it, or record it anew with --force")
    options.check_effect([case.base])
    tokenizer = _tokenizer(case)
    with Models(case.model, options) as models:
        records = play(models.get(case.base), case.base, case.asks, case.metrics, tokenizer, progress)
    records[0].check_golden()
    differences = compare_passes(records[0], records, case.terms(case.base))
    if differences.first is not None:  # bounds that do not hold, or passes that differ
        raise ConfigError(f"this run cannot be recorded: {differences.first}")
    write_record(case.golden, records[0])
    return records[0]


def runs_of(case: Case, change: Change | None = None, wanted: Sequence[str] | None = None) -> list[Run]:
    """What is checked: the case's runs, those with one of `wanted` in their names, or one that `change` makes of the case."""
    if change is not None:
        made = change.of(case.base)
        made.arrival_steps(len(case.asks))
        return [made]
    runs = [run for run in case.runs if wanted is None or any(text in run.name for text in wanted)]
    if not runs:
        words, names = " or ".join(map(repr, wanted or ())), "; ".join(run.name for run in case.runs)
        raise ConfigError(f"no run of {case.name} has {words} in its name; there are {names}")
    return runs


def check_case(
    case: Case, runs: Sequence[Run], progress: Progress | None = None, options: RankOptions = NO_OPTIONS
) -> Iterator[Outcome]:
    """An outcome for each run, as it comes; one that is an error where there is nothing to compare with."""
    try:
        expected, tokenizer = read_record(case.golden), _tokenizer(case)
    except UserError as error:
        yield Outcome(case.name, "golden", error=in_one_line(error))
        return
    with Models(case.model, options) as models:
        for run in runs:
            try:
                yield _check_run(case, run, expected, models, tokenizer, progress)
            except (UserError, EngineStopped, RankFailed) as error:
                models.after(error)
                yield Outcome(case.name, run.name, error=in_one_line(error))


def _check_run(
    case: Case, run: Run, expected: Record, models: Models, tokenizer: Tokenizer | None, progress: Progress | None
) -> Outcome:
    if run.layout.dp > 1:
        models.close()  # its memory is the replicas' now
        metrics = case.metrics_of(run)
        records = play_fleet(case.model, models.options, run, case.asks, metrics, tokenizer, progress)
        expected = expected.keeping(metrics)
    else:
        loaded = models.get(run)
        is_exact(expected.numerics_id, loaded.llm.numerics_id, case.tolerance)  # refused before the long work
        records = play(loaded, run, case.asks, case.metrics, tokenizer, progress)
    return Outcome(case.name, run.name, compare_passes(expected, records, case.terms(run)), records[-1])


def _tokenizer(case: Case) -> Tokenizer | None:
    if case.tokenizer is None:
        return None
    path = open_model(case.tokenizer).tokenizer_path
    if path is None:
        raise ConfigError(f"tokenizer is {case.tokenizer!r}, a model without one; name a model folder that has a tokenizer")
    return Tokenizer.from_folder(path)
