"""What a check and the matrix print: one line for each run, then the first differences in a few lines."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from brigade.verify.check import Outcome
from brigade.verify.compare import Differences
from brigade.verify.matrix import Row

SHOWN = 6  # differences that are told in full
GREEN, RED, PLAIN = "\x1b[32m", "\x1b[31m", "\x1b[0m"


class Paint:
    """Colours for a terminal, nothing elsewhere."""

    def __init__(self, colours: bool) -> None:
        self.colours = colours

    def verdict(self, word: str, width: int = 0) -> str:
        shown = f"{word:<{width}}"
        if not self.colours or word == "reference":
            return shown
        return f"{GREEN if word == 'same' else RED}{shown}{PLAIN}"


def outcome_lines(outcome: Outcome, paint: Paint) -> list[str]:
    name = f"{outcome.case}: {outcome.run}"
    if outcome.differences is None or outcome.found is None:
        return [f"{paint.verdict('ERROR', 9)}  {name}: {outcome.error}"]
    differences, found = outcome.differences, outcome.found
    how = "" if differences.exact else ", within the tolerance" if differences.is_same else ", compared within the tolerance"
    line = (
        f"{paint.verdict('same' if differences.is_same else 'DIFFERENT', 9)}  {name}: {len(found.requests)} requests, "
        f"{differences.compared} tokens{how}; {did(found.measured)}"
    )
    return [line, *difference_lines(differences)]


def difference_lines(differences: Differences) -> list[str]:
    if differences.is_same:
        return []
    lines = [f"    {one}" for one in differences.found[:SHOWN]]
    if len(differences.found) > SHOWN:
        requests = {one.request for one in differences.found} - {None}
        lines.append(f"    and {len(differences.found) - SHOWN} more, in {len(requests)} requests in all")
    return [*lines, f"    the largest difference of two log-probabilities of one token is {shown(differences.largest)}"]


def did(measured: dict[str, float]) -> str:
    words = [f"{measured['seconds']:.1f} s"]
    words += [f"{measured['steps']:.0f} steps"] if measured.get("steps") else []  # replicas count their own
    words.append(f"up to {measured['together']:.0f} at once")
    lost = round(measured.get("replicas_lost", 0))
    words += [f"{lost} replica{'s' * (lost > 1)} killed"] if lost else []
    pushed = round(measured["preemptions"])
    words += [f"{pushed} preemption{'s' * (pushed > 1)}"] if pushed else []
    words += [f"{measured['cached_tokens']:.0f} ids from the cache"] if measured["cached_tokens"] else []
    return ", ".join(words)


def shown(largest: float) -> str:
    return "NaN" if math.isnan(largest) else f"{largest:.3g}"


class Grid:
    """The matrix as text. Columns are as wide as the names need, so that a line can be printed as soon as its row is there."""

    def __init__(self, names: Iterable[str], paint: Paint) -> None:
        self.width, self.paint = max(map(len, names)), paint

    def head(self) -> str:
        return f"{'setting':<{self.width}}  {'verdict':<9}  {'largest':>8}  {'first difference':<24}  what it did"

    def line(self, row: Row) -> str:
        differences, first, largest = row.differences, "", ""
        if differences is not None:
            largest = shown(differences.largest)
            first = "" if differences.first is None else f"{differences.first.where}"
        told = row.error if row.error is not None else did(row.measured or {})
        verdict = self.paint.verdict(row.verdict, 9)
        return f"{row.run.name:<{self.width}}  {verdict}  {largest:>8}  {first:<24}  {told}".rstrip()


def summary(rows: Sequence[Row], left_out: int = 0) -> str:
    """`left_out`: rows that nobody asked for."""
    count = {word: sum(row.verdict == word for row in rows) for word in ("same", "DIFFERENT", "ERROR")}
    same = "not one row could be run, not even the reference"
    if rows:
        same = f"{count['same']} of {len(rows) - 1} settings say the same as the reference, bit for bit"
    wrong = [f"{count[word]} {words}" for word, words in (("DIFFERENT", "differ"), ("ERROR", "could not be judged")) if count[word]]
    silent = [f"{left_out} other row{'s were' if left_out > 1 else ' was'} left out by --rows"] if left_out else []
    return "; ".join([same, *wrong, *silent])
