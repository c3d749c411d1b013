"""The two ways a matrix is cut: by columns (outputs) and by rows (the summed axis)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from brigade.backends.base import Backend


class _Linear(nn.Module):
    def __init__(self, size_in: int, size_out: int, bias: bool, backend: Backend) -> None:
        super().__init__()
        self.backend = backend
        self.weight = nn.Parameter(torch.empty(size_out, size_in))
        self.bias = nn.Parameter(torch.empty(size_out)) if bias else None


class ColumnLinear(_Linear):
    """Outputs may be split over ranks: every element is one whole sum."""

    def forward(self, x_TK: Tensor) -> Tensor:
        return self.backend.linear(x_TK, self.weight, self.bias)


class RowLinear(_Linear):
    """The summed axis may be split over ranks: every element is a tree of partial sums, of which `size_in` is one of `share`
    equal parts."""

    def __init__(self, size_in: int, size_out: int, bias: bool, backend: Backend, share: int = 1) -> None:
        super().__init__(size_in, size_out, bias, backend)
        self.share = share

    def forward(self, x_TK: Tensor) -> Tensor:
        return self.backend.tree_linear(x_TK, self.weight, self.bias, self.share)
