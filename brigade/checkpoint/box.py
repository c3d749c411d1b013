"""A box of a tensor: one run of every axis. Tensors are read by boxes, and a rank's share of a parameter is one box or a few."""

from __future__ import annotations

import math

import numpy as np

from brigade.mesh import Cut, Run

Shape = tuple[int, ...]
Box = tuple[Run, ...]


def whole(shape: Shape) -> Box:
    return tuple((0, size) for size in shape)


def shape_of(box: Box) -> Shape:
    return tuple(last - first for first, last in box)


def boxes_of(cut: Cut | None, shape: Shape) -> tuple[int, list[Box]]:
    """The boxes that a share consists of, and the axis along which they follow each other. A bias is cut along its only axis."""
    if cut is None:
        return 0, [whole(shape)]
    axis = len(shape) + (-1 if len(shape) == 1 else cut.axis)
    return axis, [(*whole(shape[:axis]), run, *whole(shape[axis + 1 :])) for run in cut.runs]


def stretches(shape: Shape, box: Box) -> tuple[np.ndarray, int]:
    """Where a box's elements lie in a tensor that is stored row by row: the first element of each stretch of neighbours, and the
    length of a stretch. Whole rows are one stretch; of columns every row has its own."""
    axis, inner = len(shape) - 1, 1
    while axis > 0 and box[axis] == (0, shape[axis]):
        inner *= shape[axis]
        axis -= 1
    if axis < 0:
        return np.zeros(1, np.int64), 1
    first, last = box[axis]
    starts = np.full(1, first * inner, np.int64)
    for outer in range(axis - 1, -1, -1):
        steps = np.arange(*box[outer], dtype=np.int64) * math.prod(shape[outer + 1 :])
        starts = (steps[:, None] + starts).reshape(-1)
    return starts, (last - first) * inner
