"""Latencies beside the floor of the machine they were measured on: as a table, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from brigade.bench.floor import Floor
from brigade.bench.latency import Latency, Sample, Spread
from brigade.text_table import grouped


@dataclass(frozen=True)
class Row:
    """One batch size, measured and at least. A share is the floor as a part of the time, of each repetition its own, since the
    machine may change between two; of all shares the median, as it comes: more than 1 means that a ceiling was read too low, or
    that the weights stayed in a cache."""

    latency: Latency
    floors: tuple[Floor, ...]  # of each repetition

    @property
    def total(self) -> Share:
        return Share.of([(floor.total, sample.total) for floor, sample in self._pairs()])

    @property
    def first(self) -> Share:
        return Share.of([(floor.prefill, sample.first) for floor, sample in self._pairs()])

    @property
    def per_token(self) -> Share | None:
        steps = [(floor.per_token, step) for floor, sample in self._pairs() for step in sample.steps if floor.per_token is not None]
        return Share.of(steps) if steps else None

    def _pairs(self) -> Iterator[tuple[Floor, Sample]]:
        return zip(self.floors, self.latency.samples, strict=True)


@dataclass(frozen=True)
class Share:
    """Medians of the floors in seconds, and of what they are of the times."""

    floor: float
    share: float

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]]) -> Share:
        return cls(median(floor for floor, _ in pairs), median(floor / time for floor, time in pairs))


COLUMNS = {
    "whole batch": ("median", "low", "high", "p90"),
    "first token": ("median", "p90"),
    "a token after it": ("median", "p90", "p99"),
}
SHOWN = {"median": "median", "low": "min", "high": "max", "p90": "p90", "p99": "p99"}


def table(rows: Sequence[Row]) -> list[str]:
    """Two lines of heads, and a line a batch size."""
    groups = [("", [["batch", "GB/s", "GFLOP/s"], *(_machine(row) for row in rows)])]
    for place, (group, columns) in enumerate(COLUMNS.items()):
        head = [*(SHOWN[column] for column in columns), "floor", "share"]
        groups.append((f"{group}, ms", [head, *(_times(row, place, columns) for row in rows)]))
    return grouped(groups)


def _machine(row: Row) -> list[str]:
    readings = row.latency.readings
    speed = _range([reading.bandwidth / 1e9 for reading in readings])
    rate = _range([reading.rate / 1e9 for reading in readings if reading.rate is not None])
    return [str(row.latency.batch), speed, rate]


def _times(row: Row, place: int, columns: Sequence[str]) -> list[str]:
    latency = row.latency
    spread, share = ((latency.total, row.total), (latency.first, row.first), (latency.per_token, row.per_token))[place]
    if spread is None or share is None:
        return ["-"] * (len(columns) + 2)
    times = [getattr(spread, column) for column in columns] + [share.floor]
    return [*map(_milliseconds, times), f"{share.share:.1%}"]


def _range(values: Sequence[float]) -> str:
    """`34-60`, what the repetitions had."""
    if not values:
        return "-"
    low, high = f"{min(values):.0f}", f"{max(values):.0f}"
    return low if low == high else f"{low}-{high}"


def _milliseconds(seconds: float) -> str:
    """Three digits that count, or all before the point."""
    value = seconds * 1e3
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def as_json(row: Row) -> dict[str, Any]:
    """Seconds."""

    def part(spread: Spread | None, share: Share | None) -> dict[str, float] | None:
        return None if spread is None or share is None else asdict(spread) | asdict(share)

    return {
        "batch": row.latency.batch,
        "readings": [asdict(reading) for reading in row.latency.readings],
        "total": part(row.latency.total, row.total),
        "first_token": part(row.latency.first, row.first),
        "per_token": part(row.latency.per_token, row.per_token),
        "samples": [asdict(sample) for sample in row.latency.samples],
        "others": row.latency.others,
    }
