"""Latencies beside the floor of the machine they were measured on: as a table, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from brigade.bench.floor import Floor
from brigade.bench.latency import Latency, Sample, Spread


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
WIDTH = 9


def table(rows: Sequence[Row]) -> list[str]:
    """Milliseconds, and the floor's share in percent."""
    heads, names = [f"{'':>22}"], [f"{'batch':>5}{'GB/s':>8}{'GFLOP/s':>9}"]
    for group, columns in COLUMNS.items():
        cells = [SHOWN[column] for column in columns] + ["floor", "share"]
        names.append("".join(f"{cell:>{WIDTH}}" for cell in cells))
        heads.append(f"{f'{group}, ms':^{WIDTH * len(cells)}}")
    return ["  |".join(heads).rstrip(), "  |".join(names), *("  |".join(_cells(row)) for row in rows)]


def _cells(row: Row) -> list[str]:
    latency = row.latency
    parts = (latency.total, row.total), (latency.first, row.first), (latency.per_token, row.per_token)
    speed = _range([reading.bandwidth / 1e9 for reading in latency.readings])
    rate = _range([reading.rate / 1e9 for reading in latency.readings if reading.rate is not None])
    cells = [f"{latency.batch:>5}{speed:>8}{rate:>9}"]
    for columns, (spread, share) in zip(COLUMNS.values(), parts, strict=True):
        if spread is None or share is None:
            cells.append(f"{'-':>{WIDTH}}" * (len(columns) + 2))
            continue
        times = [getattr(spread, column) for column in columns] + [share.floor]
        cells.append("".join(f"{_milliseconds(time):>{WIDTH}}" for time in times) + f"{f'{share.share:.1%}':>{WIDTH}}")
    return cells


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
    }
