"""A rank's part of a packed matrix.

A run of outputs, or of K as whole blocks of the tree. What is cut out has the bytes that the same numbers would be packed to by
themselves, but for one thing: a scale that spans all of K stays that of the whole column. So a matrix that has such scales
(`SPANNING`) is cut along K after it is packed, and everything else may be cut before.
"""

from __future__ import annotations

import ctypes
from dataclasses import replace

import numpy as np

from brigade.backends.cpu.library import kernels
from brigade.backends.cpu.matrix import Layout, PackedMatrix, aligned, empty_arrays
from brigade.backends.huge_pages import Arena
from brigade.mesh import PANEL, Cut

SPANNING = ("int8", "int8-weight", "int4-int8")  # schemes with one scale for a whole column
ROWS = -2  # the axis of a cut that takes outputs


def part_of(whole: Layout, cut: Cut) -> Layout:
    """What a cut makes of a whole matrix."""
    assert whole.share == 1 and all(0 <= first < last <= (whole.n if cut.axis == ROWS else whole.k) for first, last in cut.runs)
    if cut.axis == ROWS:
        return replace(whole, n=cut.size)
    assert len(cut.runs) == 1 and whole.k % cut.size == 0 and cut.runs[0][0] % cut.size == 0, f"{cut} of {whole}"
    return replace(whole, k=cut.size, share=whole.k // cut.size)


def cut_matrix(whole: PackedMatrix, cut: Cut, arena: Arena | None = None) -> PackedMatrix:
    """With the bias that belongs to it: of a run of K the whole one, which is added once, to the whole sum."""
    layout = part_of(whole.layout, cut)
    columns = _columns(whole.layout, layout, cut)
    data, scale, colsum = empty_arrays(layout, arena)
    part = PackedMatrix.over(layout, (data, scale, colsum, _bias(whole.arrays[3], columns)))
    first_block = 0 if cut.axis == ROWS else cut.runs[0][0] // (whole.layout.k // whole.layout.blocks)
    kernels().br_cut(ctypes.byref(whole.struct), ctypes.byref(part.struct), columns.ctypes.data, first_block)
    return part


def on_panel_border(whole: Layout, cut: Cut) -> bool:
    """Whether the panels of a part are panels of the whole, and not put together anew. Of a run of K they always are."""
    columns = _columns(whole, part_of(whole, cut), cut).reshape(-1, PANEL)
    return bool(((columns[:, :1] % PANEL == 0) & (columns == columns[:, :1] + np.arange(PANEL))).all())


def _bias(whole: np.ndarray | None, columns: np.ndarray) -> np.ndarray | None:
    if whole is None:
        return None
    bias = aligned(columns.size, np.float32)
    bias[:] = np.where(columns < 0, np.float32(0), whole[columns])
    return bias


def _columns(whole: Layout, part: Layout, cut: Cut) -> np.ndarray:
    """Of every padded column of the part the padded column of the whole, or -1 where both have nothing that belongs there."""
    if cut.axis != ROWS:
        return np.arange(whole.columns, dtype=np.int32)
    rows = np.concatenate([np.arange(first, last) for first, last in cut.runs])
    columns = np.full(part.columns, -1, np.int32)
    columns[_places(part)] = _places(whole)[rows]
    # Filling that stands where the whole has filling too is taken from there: then the panel is one.
    filling = np.ones(whole.columns, bool)
    filling[_places(whole)] = False
    panels = columns.reshape(-1, PANEL)
    own = panels[:, :1] + np.arange(PANEL)
    same = (panels == own) | ((panels < 0) & filling[np.clip(own, 0, whole.columns - 1)])
    one = (panels[:, 0] >= 0) & (panels[:, 0] % PANEL == 0) & same.all(1)
    panels[one] = own[one]
    return columns


def _places(layout: Layout) -> np.ndarray:
    """The padded column of every row of the source."""
    rows = np.arange(layout.n, dtype=np.int32)
    if not layout.gated:
        return rows
    half = layout.n // 2
    at = rows % half
    return at // 16 * PANEL + at % 16 + np.where(rows < half, 0, 16).astype(np.int32)
