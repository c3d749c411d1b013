"""The feed-forward block, gated or not."""

from __future__ import annotations

from torch import Tensor, nn

from brigade.backends.base import Backend
from brigade.config import Activation


class MLP(nn.Module):
    """`up` makes gate and up at once where the block is gated: rows are [gate; up]."""

    def __init__(self, activation: Activation, gated: bool, up: nn.Module, down: nn.Module, backend: Backend) -> None:
        super().__init__()
        self.up, self.down, self.activation, self.gated, self.backend = up, down, activation, gated, backend

    def forward(self, x_TH: Tensor) -> Tensor:
        h = self.up(x_TH)
        if self.gated:
            gate, up = h.chunk(2, dim=-1)
            return self.down(self.backend.activate(self.activation, gate) * up)
        return self.down(self.backend.activate(self.activation, h))
