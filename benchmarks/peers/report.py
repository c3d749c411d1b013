"""What the run says: absolute figures, first tokens, ratios, bars, and what was skipped; as tables and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.peers.alternation import Measured
from benchmarks.peers.bars import bars, judge
from benchmarks.peers.catalogue import OURS
from benchmarks.peers.figures import Figures, is_ours
from benchmarks.peers.fleet import Fleet
from benchmarks.peers.grid import Grid
from benchmarks.peers.works import Cell, milliseconds

REFERENCE = f"{OURS}/bf16"
NONE = "-"


def grids(figures: Figures, fleet: Fleet, cells: Sequence[Cell]) -> list[Grid]:
    found = [
        _engines(figures, fleet),
        _absolute(figures, cells),
        _first(figures, cells),
        _ratios(figures, cells),
        _bars(figures, cells),
        _missing(figures, fleet),
    ]
    return [grid for grid in found if grid.rows]


def _engines(figures: Figures, fleet: Fleet) -> Grid:
    """As each engine says it of itself; peers choose their arithmetic and cache, and few of them say which."""
    rows = [[label, str(figures.bits[label]), fleet.about.get(label, NONE)] for label in figures.labels]
    return Grid(
        "Engines: bits of a weight; weights, arithmetic and cache as far as they are told", ["engine", "bits", "about"], rows
    )


def _absolute(figures: Figures, cells: Sequence[Cell]) -> Grid:
    rows = []
    for label in figures.labels:
        times = [(cell, figures.seconds(label, cell)) for cell in cells]
        same = figures.agreement(label, REFERENCE)
        shown = [NONE if seconds is None else cell.figure(seconds) for cell, seconds in times]
        rows.append([label, *shown, NONE if same is None else f"{same:.0%}"])
    head = ["engine", *(cell.name for cell in cells), "first ids as ours bf16"]
    return Grid("Medians: batches in milliseconds, 32 requests in output tokens a second, one stream in seconds", head, rows)


def _first(figures: Figures, cells: Sequence[Cell]) -> Grid:
    timed = [cell for cell in cells if cell.work == "latency"]
    rows = []
    for label in figures.labels:
        times = [figures.first(label, cell) for cell in timed]
        if any(time is not None for time in times):
            rows.append([label, *(NONE if time is None else milliseconds(time) for time in times)])
    return Grid("Until every request has its first token, milliseconds", ["engine", *(cell.name for cell in timed)], rows)


def _ratios(figures: Figures, cells: Sequence[Cell]) -> Grid:
    rows = [
        [label, *(_times(figures.ratio(label, figures.counterpart(label, cell), cell)) for cell in cells)]
        for label in figures.labels
        if not is_ours(label)
    ]
    return Grid("Ours at the same bits is so many times as fast", ["peer", *(cell.name for cell in cells)], rows)


def _bars(figures: Figures, cells: Sequence[Cell]) -> Grid:
    rows = []
    for bar in bars(cells):
        verdict = judge(figures, bar)
        said = {True: "holds", False: "missed", None: "not measured"}[verdict.holds]
        rows.append([
            bar.cell.name, _width(bar.ours), _width(bar.peers), verdict.ours or NONE, verdict.peer or NONE,
            _times(verdict.ratio), f"{bar.wanted:.2f}", said,
        ])  # fmt: skip
    head = ["cell", "our bits", "their bits", "our best", "best peer", "ratio", "bar", ""]
    return Grid("Ours against the best peer of each cell", head, rows)


def _missing(figures: Figures, fleet: Fleet) -> Grid:
    rows = [[label, reason] for label, reason in fleet.skipped.items()]
    for heat, found in figures.heats.items():
        for label, measured in found.items():
            where = f" beside {heat}" if is_ours(label) else ""
            rows += [[label, f"{cell.name}{where}: {reason}"] for cell, reason in measured.failures.items()]
            if measured.lost:
                rows.append([label, f"lost{where} at {measured.lost}"])
    return Grid("Skipped, and why", ["engine", "reason"], rows)


def _times(ratio: float | None) -> str:
    return NONE if ratio is None else f"{ratio:.2f}"


def _width(bits: Sequence[int]) -> str:
    return "any" if len(bits) == 4 else "/".join(map(str, bits))


def as_json(figures: Figures, fleet: Fleet, cells: Sequence[Cell], facts: dict[str, Any]) -> dict[str, Any]:
    """Every sample in seconds, so that other questions can be asked of the same run."""
    engines = [
        {
            "engine": label, "bits": figures.bits[label], "about": fleet.about.get(label, ""),
            "first_ids_as_reference": figures.agreement(label, REFERENCE),
            "heats": {
                heat: {"lost": found[label].lost or None, "cells": [_cell(found[label], cell) for cell in cells]}
                for heat, found in figures.heats.items()
                if label in found
            },
        }
        for label in figures.labels
    ]  # fmt: skip
    verdicts = [judge(figures, bar) for bar in bars(cells)]
    judged = [asdict(verdict) | {"holds": verdict.holds} for verdict in verdicts]
    return facts | {"engines": engines, "bars": judged, "skipped": fleet.skipped}


def _cell(measured: Measured, cell: Cell) -> dict[str, Any]:
    samples = measured.samples.get(cell, [])
    return asdict(cell) | {
        "failure": measured.failures.get(cell),
        "seconds": [sample.seconds for sample in samples],
        "first": [sample.first for sample in samples],
        "others": [sample.others for sample in samples],
    }
