"""A rank's part of a packed matrix: a run of outputs, or of K as whole blocks of the tree.

Where a cut lies on borders of panels the part is used where the whole lies, and only what is small is copied. Along K that is
always so. Elsewhere its panels are put together anew. Either way the part has the bytes that its numbers would be packed to by
themselves, but for one thing: a scale that spans all of K (`SPANNING`) is that of the whole column.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np

from brigade.backends.cpu.library import kernels
from brigade.backends.cpu.matrix import SUMMED, Layout, PackedMatrix, Panels, aligned, empty_arrays
from brigade.backends.huge_pages import Arena
from brigade.mesh import PANEL, Cut, Run

ROWS = -2  # the axis of a cut that takes outputs
MOST_RUNS = 3  # of panels that the kernels find: heads of queries, keys and values
# The layers of a model are cut alike, and to work a cut out took half as long as to load an artifact of int8.
once_a_kind = lru_cache(maxsize=64)


@dataclass(frozen=True)
class Place:
    """Which panels of a whole matrix hold a part, and which blocks of K in each of them."""

    panels: tuple[Run, ...]
    blocks: Run


def part_of(whole: Layout, cut: Cut) -> Layout:
    """What a cut makes of a whole matrix."""
    assert whole.share == 1 and all(0 <= first < last <= (whole.n if cut.axis == ROWS else whole.k) for first, last in cut.runs)
    if cut.axis == ROWS:
        return replace(whole, n=cut.size)
    assert len(cut.runs) == 1 and whole.k % cut.size == 0 and cut.runs[0][0] % cut.size == 0, f"{cut} of {whole}"
    return replace(whole, k=cut.size, share=whole.k // cut.size)


@once_a_kind
def place_of(whole: Layout, cut: Cut | None) -> Place:
    if cut is None:
        return Place(((0, whole.columns // PANEL),), (0, whole.blocks))
    part = part_of(whole, cut)
    if cut.axis != ROWS:
        first = _first_block(whole, cut)
        return Place(((0, whole.columns // PANEL),), (first, first + part.blocks))
    columns = _columns(whole, part, cut)
    return Place(_runs(np.unique(columns[columns >= 0] // PANEL)), (0, whole.blocks))


def take_part(whole: PackedMatrix, cut: Cut, arena: Arena | None = None) -> PackedMatrix:
    """Where it lies, if the kernels can find it there; else put together anew."""
    return lying_part(whole, cut) if on_panel_border(whole.layout, cut) else cut_matrix(whole, cut, arena)


@once_a_kind
def on_panel_border(whole: Layout, cut: Cut) -> bool:
    """Whether a part is whole panels of the whole, in no more runs than the kernels find. Of a run of K it always is."""
    if cut.axis != ROWS:
        return True
    columns = _columns(whole, part_of(whole, cut), cut).reshape(-1, PANEL)
    whole_panels = (columns[:, :1] % PANEL == 0) & (columns == columns[:, :1] + np.arange(PANEL))
    in_order = np.diff(columns[:, 0]) > 0
    return bool(whole_panels.all() and in_order.all()) and len(_runs(columns[:, 0] // PANEL)) <= MOST_RUNS


def lying_part(whole: PackedMatrix, cut: Cut) -> PackedMatrix:
    """Its panels are those of `whole`, whose memory it shares. With the bias that belongs to it: of a run of K the whole one, which
    is added once, to the whole sum."""
    layout = part_of(whole.layout, cut)
    data, scale, colsum, bias = whole.arrays
    columns = None if cut.axis != ROWS else _columns(whole.layout, layout, cut)
    place = place_of(whole.layout, cut)
    arrays = [
        _lying(data, whole.layout, place),
        _lying(scale, whole.layout, place) if layout.scheme == "int4" else _of_columns(scale, columns),
        _of_columns(colsum, columns),
        _of_columns(bias, columns),
    ]
    if columns is None and layout.scheme in SUMMED:
        arrays[2] = aligned(layout.columns, np.int32)
    part = PackedMatrix.over(layout, tuple(arrays))
    if columns is None and layout.scheme in SUMMED:
        kernels().br_column_sums(ctypes.byref(part.struct), arrays[2].ctypes.data)
    return part


def cut_matrix(whole: PackedMatrix, cut: Cut, arena: Arena | None = None) -> PackedMatrix:
    """The same in memory of its own."""
    layout = part_of(whole.layout, cut)
    columns = _columns(whole.layout, layout, cut)
    data, scale, colsum = empty_arrays(layout, arena)
    part = PackedMatrix.over(layout, (data, scale, colsum, _of_columns(whole.arrays[3], columns)))
    first = 0 if cut.axis == ROWS else _first_block(whole.layout, cut)
    kernels().br_cut(ctypes.byref(whole.struct), ctypes.byref(part.struct), columns.ctypes.data, first)
    return part


def _first_block(whole: Layout, cut: Cut) -> int:
    return cut.runs[0][0] // (whole.k // whole.blocks)


def _lying(array: np.ndarray, whole: Layout, place: Place) -> Panels:
    each = array.reshape(whole.columns // PANEL, whole.blocks, -1)
    (first, last), stride = place.blocks, each.strides[0]
    runs = (each[a:b, first:last] for a, b in place.panels)
    return Panels(tuple(run.reshape(run.shape[0], -1) for run in runs), stride)


def _of_columns(whole: np.ndarray | None, columns: np.ndarray | None) -> np.ndarray | None:
    """One number for each padded column; of all columns the array itself."""
    if whole is None or columns is None:
        return whole
    part = aligned(columns.size, whole.dtype.type)
    part[:] = np.where(columns < 0, whole.dtype.type(0), whole[columns])
    return part


def _runs(numbers: np.ndarray) -> tuple[Run, ...]:
    """Of numbers that follow each other, the runs of those that are one apart."""
    breaks = [0, *(np.flatnonzero(np.diff(numbers) != 1) + 1).tolist(), numbers.size]
    return tuple((int(numbers[a]), int(numbers[b - 1]) + 1) for a, b in pairwise(breaks))


@once_a_kind
def _columns(whole: Layout, part: Layout, cut: Cut) -> np.ndarray:
    """Of every padded column of the part the padded column of the whole, or -1 where both have nothing that belongs there."""
    if cut.axis != ROWS:
        return _kept(np.arange(whole.columns, dtype=np.int32))
    rows = np.concatenate([np.arange(first, last) for first, last in cut.runs])
    columns = np.full(part.columns, -1, np.int32)
    columns[places_of(part)] = places_of(whole)[rows]
    # Filling that stands where the whole has filling too is taken from there: then the panel is one.
    filling = np.ones(whole.columns, bool)
    filling[places_of(whole)] = False
    panels = columns.reshape(-1, PANEL)
    own = panels[:, :1] + np.arange(PANEL)
    same = (panels == own) | ((panels < 0) & filling[np.clip(own, 0, whole.columns - 1)])
    one = (panels[:, 0] >= 0) & (panels[:, 0] % PANEL == 0) & same.all(1)
    panels[one] = own[one]
    return _kept(columns)


def _kept(columns: np.ndarray) -> np.ndarray:
    """Of many callers, so none may write to it."""
    columns.flags.writeable = False
    return columns


def places_of(layout: Layout) -> np.ndarray:
    """The padded column of every row of the source."""
    rows = np.arange(layout.n, dtype=np.int32)
    if not layout.gated:
        return rows
    half = layout.n // 2
    at = rows % half
    return at // 16 * PANEL + at % 16 + np.where(rows < half, 0, 16).astype(np.int32)
