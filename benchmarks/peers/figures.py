"""From samples to figures: medians, who is how many times as fast as whom, and who is best."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.peers.alternation import Measured
from benchmarks.peers.catalogue import OURS
from benchmarks.peers.works import Cell


def is_ours(label: str) -> bool:
    return label.split("/")[0] == OURS


@dataclass(frozen=True)
class Figures:
    """`bits` of each engine's weights, by its label."""

    measured: Mapping[str, Measured]
    bits: Mapping[str, int]

    def seconds(self, label: str, cell: Cell) -> float | None:
        """The median of the repetitions; None where it has none."""
        samples = self.measured[label].samples.get(cell)
        return statistics.median(sample.seconds for sample in samples) if samples else None

    def first(self, label: str, cell: Cell) -> float | None:
        times = [sample.first for sample in self.measured[label].samples.get(cell, []) if sample.first is not None]
        return statistics.median(times) if times else None

    def best(self, cell: Cell, accepted: Callable[[str], bool]) -> str | None:
        """The fastest of those accepted; every cell is the same work for all, so less time is better whatever its unit."""
        times = {label: self.seconds(label, cell) for label in self.measured if accepted(label)}
        known = {label: seconds for label, seconds in times.items() if seconds is not None}
        return min(known, key=known.__getitem__) if known else None

    def counterpart(self, label: str, cell: Cell) -> str | None:
        """Ours at the same number of bits, the fastest of it; beside wider weights, ours at 16."""
        bits = min(self.bits[label], 16)
        return self.best(cell, lambda other: is_ours(other) and self.bits[other] == bits)

    def ratio(self, slower: str | None, faster: str | None, cell: Cell) -> float | None:
        """How many times as fast the second is: above 1 where it wins."""
        if slower is None or faster is None:
            return None
        one, other = self.seconds(slower, cell), self.seconds(faster, cell)
        return one / other if one is not None and other is not None else None

    def agreement(self, label: str, reference: str) -> float | None:
        """The share of requests whose first token is the reference's: whether it is the same model at all."""
        if label not in self.measured or reference not in self.measured:
            return None
        theirs = self.measured[reference].samples
        pairs = [
            (mine[0], other[0])
            for cell, samples in self.measured[label].samples.items()
            for sample, same in zip(samples, theirs.get(cell, []), strict=False)
            for mine, other in zip(sample.ids, same.ids, strict=True)
        ]
        return sum(mine == other for mine, other in pairs) / len(pairs) if pairs else None
