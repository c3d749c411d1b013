"""RMSNorm and LayerNorm, told apart by `kind`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from brigade.backends.base import Backend
from brigade.config import NormKind


class Norm(nn.Module):
    def __init__(self, kind: NormKind, size: int, eps: float, backend: Backend, offset: float = 0.0) -> None:
        super().__init__()
        self.kind, self.eps, self.offset, self.backend = kind, eps, offset, backend
        self.weight = nn.Parameter(torch.empty(size))
        self.bias = nn.Parameter(torch.empty(size)) if kind == "layernorm" else None

    def forward(self, x_TH: Tensor) -> Tensor:
        return self.backend.norm(self.kind, x_TH, self.weight, self.bias, self.eps, self.offset)
