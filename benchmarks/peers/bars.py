"""The bars: how many times as fast as the best peer of that cell ours must be, and whether it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.peers.figures import Figures
from benchmarks.peers.works import Cell

ANY = (4, 8, 16, 32)
LATENCY_16 = {1: 1.3, 2: 1.3, 4: 1.15, 8: 1.15, 16: 1.1}
LATENCY_ANY = 1.6
THROUGHPUT = {(16,): 1.35, (8,): 2.2}
STREAM = 1.4


@dataclass(frozen=True)
class Bar:
    """Ours of these bits against peers of those, in one cell."""

    cell: Cell
    ours: tuple[int, ...]
    peers: tuple[int, ...]
    wanted: float


@dataclass(frozen=True)
class Verdict:
    bar: Bar
    ours: str | None
    peer: str | None
    ratio: float | None

    @property
    def holds(self) -> bool | None:
        """None where one side is missing."""
        return None if self.ratio is None else self.ratio >= self.bar.wanted


def bars(cells: Sequence[Cell]) -> list[Bar]:
    found = []
    for cell in cells:
        if cell.work == "latency":
            if cell.batch in LATENCY_16:
                found.append(Bar(cell, (16,), (16,), LATENCY_16[cell.batch]))
            found.append(Bar(cell, (8, 4), ANY, LATENCY_ANY))
        elif cell.work == "throughput":
            found += [Bar(cell, bits, ANY, wanted) for bits, wanted in THROUGHPUT.items()]
        else:
            found += [Bar(cell, (bits,), (bits,), STREAM) for bits in (16, 8, 4)]
    return found


def judge(figures: Figures, bar: Bar) -> Verdict:
    ours = figures.our_best(bar.cell, bar.ours)
    peer = figures.best_peer(bar.cell, bar.peers, ours)
    return Verdict(bar, ours, peer, None if peer is None else figures.ratio(peer, ours, bar.cell))
