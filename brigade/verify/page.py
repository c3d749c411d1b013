"""The matrix as one page that stands alone: nothing in it is fetched from elsewhere, and it runs no script.

`page.html` is the page; here is what it is filled with. A `PageFile` is written anew after every row, so that a run that is killed
leaves the rows that it had, and a page that says that they are not all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brigade.config import ModelConfig
from brigade.errors import ConfigError, in_one_line
from brigade.output_files import is_stream, write_file
from brigade.parallel.degrees import make_mesh
from brigade.verify.layout import Layout
from brigade.verify.layout_picture import draw_layout, draw_small
from brigade.verify.matrix import Row, exit_code
from brigade.verify.record import Record
from brigade.verify.report import difference_lines, shown, summary
from brigade.verify.run import Run

if TYPE_CHECKING:
    import jinja2

TEMPLATE = Path(__file__).with_name("page.html")
MARKS = {"reference": "●", "same": "✓", "DIFFERENT": "✗", "ERROR": "!", "not run": "–"}
MEASURED = {
    "seconds": "seconds", "steps": "steps", "together": "at once", "preemptions": "preemptions", "cached_tokens": "ids from cache",
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What is known before the first row. `facts` are shown as they are; `left_out` counts the rows that nobody asked for."""

    runs: Sequence[Run]
    config: ModelConfig
    model: str
    facts: Mapping[str, str]
    begun: datetime
    left_out: int = 0


@dataclass(frozen=True)
class State:
    """How far the run came. `stopped`: why it ended before its last row."""

    rows: Sequence[Row]
    now: datetime
    stopped: str | None = None


@dataclass(frozen=True)
class Verdict:
    """The answer at the top. `tone`: good, bad or open, which is neither."""

    tone: str
    words: str
    more: str


@dataclass(frozen=True)
class Line:
    """A row as the page shows it, also one that did not run."""

    number: int
    name: str
    verdict: str
    small: str
    why: str = ""  # where it differs first, or its error
    details: Sequence[str] = ()
    compared: str = ""
    largest: str = ""
    measured: Mapping[str, str] = field(default_factory=dict)

    @property
    def mark(self) -> str:
        return MARKS[self.verdict]

    @property
    def is_wrong(self) -> bool:
        return self.verdict in ("DIFFERENT", "ERROR")


@dataclass(frozen=True)
class Group:
    """The rows of one layout."""

    name: str
    tally: str
    picture: str
    lines: Sequence[Line]


def judge(plan: Plan, state: State) -> Verdict:
    """Good is only what is whole: every row ran, and all say the same."""
    done, all_of_them = len(state.rows), len(plan.runs)
    more = summary(state.rows, plan.left_out)
    code = exit_code(state.rows) if state.rows else 2
    if done < all_of_them:
        words = "Stopped" if state.stopped is not None else "Not finished"
        why = f"Why: {state.stopped}. " if state.stopped else "When this page was written, the run was under way. "
        return Verdict("bad" if code == 1 else "open", f"{words} after {done} of {all_of_them} rows", why + more)
    if code == 0:
        return Verdict("good", "Everything is the same", more)
    if code == 1:
        return Verdict("bad", "Not everything is the same", more)
    return Verdict("open", "Nothing differs, but not every row could be judged", more)


def render(plan: Plan, state: State) -> str:
    groups = _groups(plan, state.rows)
    lines = [line for group in groups for line in group.lines]
    counts = {word: sum(line.verdict == word for line in lines) for word in ("same", "DIFFERENT", "ERROR", "not run")}
    return _template().render(
        verdict=judge(plan, state), counts=counts, facts=_facts(plan, state), groups=groups, measures=MEASURED, marks=MARKS,
        wrong=[line for line in lines if line.is_wrong], model=plan.model, columns=5 + len(MEASURED),
    )  # fmt: skip


def _facts(plan: Plan, state: State) -> dict[str, str]:
    record = state.rows[0].record if state.rows else None
    known = {} if record is None else {name: text for name, text in _of_the_record(record).items() if text}
    took = timedelta(seconds=round((state.now - plan.begun).total_seconds()))
    when = f"{plan.begun:%Y-%m-%d %H:%M:%S %Z}, {took} until this page was written"
    return {"model": plan.model, **known, **plan.facts, "date": when}


def _of_the_record(record: Record) -> dict[str, str]:
    return {
        "number formats": str(record.settings.get("formats", "")), "fingerprint": record.fingerprint,
        "numerics id": record.numerics_id, "versions": ", ".join(f"{name} {text}" for name, text in record.versions.items()),
    }  # fmt: skip


def _groups(plan: Plan, rows: Sequence[Row]) -> list[Group]:
    """By layout, in the order of the rows, those that did not run too."""
    known = [*rows, *[None] * (len(plan.runs) - len(rows))]
    numbered = list(enumerate(zip(plan.runs, known, strict=True)))
    groups = []
    for layout, members in groupby(numbered, key=lambda each: each[1][0].layout):
        mesh = make_mesh(plan.config, layout.tp, layout.pp, layout.pp_layers or None)
        small = draw_small(mesh, str(layout))
        lines = [_line(number, run, row, small) for number, (run, row) in members]
        groups.append(Group(str(layout), _tally(layout, lines), draw_layout(mesh, plan.config, str(layout)), lines))
    return groups


def _tally(layout: Layout, lines: Sequence[Line]) -> str:
    counts = {word: sum(line.verdict == word for line in lines) for word in MARKS if word != "reference"}
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    ranks = "" if layout.ranks == 1 else f"{layout.ranks} ranks: "
    return ranks + told


def _line(number: int, run: Run, row: Row | None, small: str) -> Line:
    if row is None:
        return Line(number, run.name, "not run", small)
    differences, why = row.differences, row.error or ""
    details = [row.error] if row.error is not None else []
    if differences is not None and differences.first is not None:
        why = why or differences.first.where
        details += [line.strip() for line in difference_lines(differences)]
    measured = {name: f"{row.measured[name]:{'.2f' if name == 'seconds' else '.0f'}}" for name in MEASURED} if row.measured else {}
    compared, largest = ("", "") if differences is None else (f"{differences.compared}", shown(differences.largest))
    return Line(number, run.name, row.verdict, small, why, details, compared, largest, measured)


@cache
def _template() -> jinja2.Template:
    import jinja2

    rules = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return rules.from_string(TEMPLATE.read_text(encoding="utf-8"))


class PageFile:
    """The page on the disk while rows come. Leaving it by an error writes the page that says so. `path` None: there is none."""

    def __init__(self, path: Path | None, plan: Plan) -> None:
        self.path, self.plan = path, plan
        self.rows: list[Row] = []

    def add(self, row: Row) -> None:
        self.rows.append(row)
        if self.path is not None and not is_stream(self.path):  # what a stream was given cannot be taken back
            with suppress(ConfigError):  # a disk that is full now may have room at the end, which has the last word
                self._write(None)

    def _write(self, stopped: str | None) -> None:
        assert self.path is not None
        write_file(self.path, render(self.plan, State(self.rows, datetime.now().astimezone(), stopped)))

    def __enter__(self) -> PageFile:
        return self

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        if self.path is None:
            return
        if error is None:
            self._write(None)
            return
        with suppress(ConfigError):  # the error that is under way is the one to tell
            self._write("it was interrupted" if isinstance(error, KeyboardInterrupt) else in_one_line(error))
