"""Latencies beside the floor of the machine they were measured on: as a table, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from brigade.bench.floor import Floor
from brigade.bench.latency import Latency, Spread


@dataclass(frozen=True)
class Row:
    """One batch size, measured and at least. A share is the floor as a part of the median, as it comes: more than 1 means
    that a ceiling was read too low, or that the weights stayed in a cache."""

    latency: Latency
    floor: Floor

    @property
    def total_share(self) -> float:
        return self.floor.total / self.latency.total.median

    @property
    def first_share(self) -> float:
        return self.floor.prefill / self.latency.first.median

    @property
    def per_token_share(self) -> float | None:
        spread, least = self.latency.per_token, self.floor.per_token
        return None if spread is None or least is None else least / spread.median


COLUMNS = {
    "whole batch": ("median", "low", "high", "p90"),
    "first token": ("median", "p90"),
    "a token after it": ("median", "p90", "p99"),
}
SHOWN = {"median": "median", "low": "min", "high": "max", "p90": "p90", "p99": "p99"}
WIDTH = 9


def table(rows: Sequence[Row]) -> list[str]:
    """Milliseconds, and the floor's share in percent."""
    heads, names = [f"{'':>19}"], [f"{'batch':>5}{'GB/s':>6}{'GFLOP/s':>8}"]
    for group, columns in COLUMNS.items():
        cells = [SHOWN[column] for column in columns] + ["floor", "share"]
        names.append("".join(f"{cell:>{WIDTH}}" for cell in cells))
        heads.append(f"{f'{group}, ms':^{WIDTH * len(cells)}}")
    return ["  |".join(heads).rstrip(), "  |".join(names), *("  |".join(_cells(row)) for row in rows)]


def _cells(row: Row) -> list[str]:
    parts = (
        (row.latency.total, row.floor.total, row.total_share),
        (row.latency.first, row.floor.prefill, row.first_share),
        (row.latency.per_token, row.floor.per_token, row.per_token_share),
    )
    machine = row.latency.machine
    speed = "-" if machine is None else f"{machine.bandwidth / 1e9:.1f}"
    rate = "-" if machine is None or machine.rate is None else f"{machine.rate / 1e9:.0f}"
    cells = [f"{row.latency.batch:>5}{speed:>6}{rate:>8}"]
    for columns, (spread, least, share) in zip(COLUMNS.values(), parts, strict=True):
        if spread is None or least is None or share is None:
            cells.append(f"{'-':>{WIDTH}}" * (len(columns) + 2))
            continue
        times = [getattr(spread, column) for column in columns] + [least]
        cells.append("".join(f"{_milliseconds(time):>{WIDTH}}" for time in times) + f"{f'{share:.1%}':>{WIDTH}}")
    return cells


def _milliseconds(seconds: float) -> str:
    """Three digits that count, or all before the point."""
    value = seconds * 1e3
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def as_json(row: Row) -> dict[str, Any]:
    """Seconds."""

    def part(spread: Spread | None, least: float | None, share: float | None) -> dict[str, float] | None:
        return None if spread is None or least is None or share is None else asdict(spread) | {"floor": least, "share": share}

    return {
        "batch": row.latency.batch,
        "machine": None if row.latency.machine is None else asdict(row.latency.machine),
        "total": part(row.latency.total, row.floor.total, row.total_share),
        "first_token": part(row.latency.first, row.floor.prefill, row.first_share),
        "per_token": part(row.latency.per_token, row.floor.per_token, row.per_token_share),
        "samples": [asdict(sample) for sample in row.latency.samples],
    }
