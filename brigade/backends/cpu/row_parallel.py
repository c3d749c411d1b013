"""Products of matrices whose K is cut over ranks: part, exchange, finish. The native layer does the same in `csrc/layer.cpp`."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from brigade.backends.cpu.library import kernels
from brigade.backends.cpu.matrix import SUMMED, PackedMatrix
from brigade.backends.exchange import Exchange


def shared_products(pairs: Sequence[tuple[Tensor, PackedMatrix]], exchange: Exchange) -> list[Tensor]:
    """Each x times the whole matrix of which this rank holds a share, all with one exchange of sums, and of int8 one of what rows
    are quantised by. All matrices have as many outputs, and sums of one type."""
    counts = [x_TK.shape[0] for x_TK, _ in pairs]
    if not sum(counts):
        return [torch.empty(0, matrix.shape[0]) for _, matrix in pairs]
    outputs, summed = pairs[0][1].shape[0], pairs[0][1].scheme in SUMMED
    for x_TK, matrix in pairs:
        assert matrix.layout.share == exchange.size, f"{matrix.layout} among {exchange.size} ranks"
        assert matrix.shape == (outputs, x_TK.shape[1]) and (matrix.scheme in SUMMED) == summed, f"{matrix.layout} beside others"
    starts = list(accumulate(counts, initial=0))[:-1]
    work = [(start, x_TK.float().contiguous(), matrix) for start, (x_TK, matrix) in zip(starts, pairs, strict=True)]
    most_T = exchange.maximum(_row_most(work, sum(counts))) if summed else None
    part_TN = torch.empty(sum(counts), outputs, dtype=torch.int32 if summed else torch.float32)
    scale_T, out_TN = torch.empty(sum(counts)), torch.empty(sum(counts), outputs)
    for start, x_TK, matrix in work:
        most = None if most_T is None else most_T[start:].data_ptr()
        kernels().br_linear_part(
            ctypes.byref(matrix.struct), x_TK.data_ptr(), x_TK.shape[0], most, part_TN[start:].data_ptr(),
            scale_T[start:].data_ptr(),
        )  # fmt: skip
    whole_TN = exchange.tree(part_TN)
    for start, x_TK, matrix in work:
        kernels().br_finish(
            ctypes.byref(matrix.struct), whole_TN[start:].data_ptr(), scale_T[start:].data_ptr(), x_TK.shape[0],
            out_TN[start:].data_ptr(),
        )  # fmt: skip
    return list(out_TN.split(counts))


def _row_most(work: Sequence[tuple[int, Tensor, PackedMatrix]], rows: int) -> Tensor:
    most_T = torch.empty(rows)
    for start, x_TK, _ in work:
        kernels().br_row_most(x_TK.data_ptr(), *x_TK.shape, most_T[start:].data_ptr())
    return most_T
