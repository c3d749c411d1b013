"""The two ways a matrix is cut: by columns (outputs) and by rows (the summed axis)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from brigade.backends.base import Backend
from brigade.mesh import Cut
from brigade.model.cut_module import CutModule


class _Linear(CutModule):
    def __init__(self, size_in: int, size_out: int, bias: bool, backend: Backend) -> None:
        super().__init__()
        self.backend = backend
        self.weight = nn.Parameter(torch.empty(size_out, size_in))
        self.bias = nn.Parameter(torch.empty(size_out)) if bias else None


class ColumnLinear(_Linear):
    """Outputs may be split over ranks: every element is one whole sum. `cut`: the outputs that this rank makes; None: all."""

    def __init__(self, size_in: int, size_out: int, bias: bool, backend: Backend, cut: Cut | None = None) -> None:
        super().__init__(size_in, size_out if cut is None else cut.size, bias, backend)
        self.cuts = {} if cut is None else {"weight": cut} | ({"bias": cut} if bias else {})

    def forward(self, x_TK: Tensor) -> Tensor:
        return self.backend.linear(x_TK, self.weight, self.bias)


class RowLinear(_Linear):
    """The summed axis may be split over ranks: every element is a tree of partial sums. `cut`: this rank's part of K, one of
    `share` equal ones. The bias is added once, to the whole sum, so every rank holds it."""

    def __init__(
        self, size_in: int, size_out: int, bias: bool, backend: Backend, cut: Cut | None = None, share: int = 1
    ) -> None:  # fmt: skip
        super().__init__(size_in if cut is None else cut.size, size_out, bias, backend)
        self.cuts, self.share = {} if cut is None else {"weight": cut}, share

    def forward(self, x_TK: Tensor) -> Tensor:
        return self.backend.tree_linear(x_TK, self.weight, self.bias, self.share)
