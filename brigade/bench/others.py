"""How much of the machine other processes took while a sample was made. Standard library alone: it also runs in the environments
of other engines."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

STAT = Path("/proc/stat")
IDLE = (3, 4)  # of the columns of its first line: idle, and waiting for a disk
GUESTS = 8  # columns from here on are counted in others already
QUIET = 0.05  # of the machine: where others took more, figures are not this machine's


def busy_seconds(line: str, ticks: int) -> float:
    """Of all processors together since the machine started, from the first line of /proc/stat."""
    columns = [int(column) for column in line.split()[1 : GUESTS + 1]]
    return (sum(columns) - sum(columns[place] for place in IDLE if place < len(columns))) / ticks


class Others:
    """Between its making and `share`: what others used, as a part of all processors. None where the system does not tell."""

    def __init__(self) -> None:
        self._begun = self._read()

    def share(self) -> float | None:
        begun, now = self._begun, self._read()
        if begun is None or now is None or now[0] <= begun[0]:
            return None
        wall, busy, own = (end - start for start, end in zip(begun, now, strict=True))
        return min(max((busy - own) / (wall * (os.cpu_count() or 1)), 0.0), 1.0)

    @staticmethod
    def _read() -> tuple[float, float, float] | None:
        """Wall, the machine's work, this process's own."""
        if not STAT.exists():
            return None
        line = STAT.read_text(encoding="ascii").splitlines()[0]
        return time.perf_counter(), busy_seconds(line, os.sysconf("SC_CLK_TCK")), time.process_time()


def company(shares: Sequence[float], of: str) -> str:
    """Whether the machine was ours. `of`: what was measured, such as runs."""
    if not shares:
        return "how much other processes took meanwhile is not known"
    middle = statistics.median(shares)
    said = f"other processes took {middle:.0%} of the machine (median of all {of}; at most {max(shares):.0%})"
    return said + (": it was busy, so read neither times nor ratios as this machine's" if middle > QUIET else "")
