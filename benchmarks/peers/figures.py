"""From samples to figures: medians, who is how many times as fast as whom, and who is best."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from benchmarks.peers.alternation import Measured, Sample
from benchmarks.peers.catalogue import OURS
from benchmarks.peers.works import Cell


def is_ours(label: str) -> bool:
    return label.split("/")[0] == OURS


Heats = Mapping[str, Mapping[str, Measured]]  # by the peer whose heat it was, by the engine's label


@dataclass(frozen=True)
class Figures:
    """Each peer ran in a heat of its own, in alternation with ours, so a ratio is of samples of one heat. `bits` are of each
    engine's weights, by its label."""

    heats: Heats
    bits: Mapping[str, int]

    @property
    def labels(self) -> list[str]:
        return list(dict.fromkeys(label for heat in self.heats.values() for label in heat))

    def samples(self, label: str, cell: Cell, heat: str | None = None) -> list[Sample]:
        """Of one heat, or of all."""
        chosen = self.heats.values() if heat is None else [self.heats[heat]]
        return [sample for found in chosen if label in found for sample in found[label].samples.get(cell, [])]

    def seconds(self, label: str, cell: Cell, heat: str | None = None) -> float | None:
        """The median of the repetitions; None where there are none."""
        samples = self.samples(label, cell, heat)
        return statistics.median(sample.seconds for sample in samples) if samples else None

    def first(self, label: str, cell: Cell) -> float | None:
        times = [sample.first for sample in self.samples(label, cell) if sample.first is not None]
        return statistics.median(times) if times else None

    def others(self) -> list[float]:
        """Of every sample: the share of the machine that went to other processes."""
        every = (found for heat in self.heats.values() for found in heat.values())
        samples = (sample for found in every for cell in found.samples.values() for sample in cell)
        return [sample.others for sample in samples if sample.others is not None]

    def ratio(self, peer: str, ours: str | None, cell: Cell) -> float | None:
        """How many times as fast ours is: above 1 where it wins. Every cell is the same work for all, so less time is better
        whatever its unit."""
        heat = peer.split("/")[0]
        if ours is None or heat not in self.heats:
            return None
        theirs, own = self.seconds(peer, cell, heat), self.seconds(ours, cell, heat)
        return theirs / own if theirs is not None and own is not None else None

    def our_best(self, cell: Cell, bits: Collection[int]) -> str | None:
        """The fastest of ours with so many bits."""
        times = {label: self.seconds(label, cell) for label in self.labels if is_ours(label) and self.bits[label] in bits}
        return _least(times)

    def best_peer(self, cell: Cell, bits: Collection[int], ours: str | None) -> str | None:
        """The one that comes nearest to ours, or farthest before it."""
        ratios = {label: self.ratio(label, ours, cell) for label in self.labels if not is_ours(label) and self.bits[label] in bits}
        return _least(ratios)

    def counterpart(self, peer: str, cell: Cell) -> str | None:
        """Ours at the same number of bits; beside wider weights, ours at 16."""
        return self.our_best(cell, (min(self.bits[peer], 16),))

    def agreement(self, label: str, reference: str) -> float | None:
        """The share of requests whose first token is the reference's: whether it is the same model at all."""
        pairs = [
            (mine[0], other[0])
            for heat in self.heats.values()
            if label in heat and reference in heat
            for cell, samples in heat[label].samples.items()
            for sample, same in zip(samples, heat[reference].samples.get(cell, []), strict=False)
            for mine, other in zip(sample.ids, same.ids, strict=True)
        ]
        return sum(mine == other for mine, other in pairs) / len(pairs) if pairs else None


def _least(values: Mapping[str, float | None]) -> str | None:
    known = {label: value for label, value in values.items() if value is not None}
    return min(known, key=known.__getitem__) if known else None
