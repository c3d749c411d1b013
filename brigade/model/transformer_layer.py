"""One layer: two sublayers around a residual stream, in the arrangement its family was trained with."""

from __future__ import annotations

from torch import Tensor, nn

from brigade.backends.base import Step
from brigade.config import ModelConfig


class TransformerLayer(nn.Module):
    """Pre-norm, post-norm, parallel or sandwich: `config` says which, the parts come from the spec."""

    reads_rotary = True  # every layer says so; a backend's own may look angles up by position itself

    def __init__(
        self,
        config: ModelConfig,
        attention_norm: nn.Module,
        attention: nn.Module,
        mlp_norm: nn.Module,
        mlp: nn.Module,
        attention_post_norm: nn.Module | None = None,
        mlp_post_norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.attention_norm, self.attention, self.attention_post_norm = attention_norm, attention, attention_post_norm
        self.mlp_norm, self.mlp, self.mlp_post_norm = mlp_norm, mlp, mlp_post_norm
        self.norm_after, self.parallel = config.norm_after, config.parallel_residual

    def forward(self, x_TH: Tensor, step: Step, rotary: dict) -> Tensor:
        if self.norm_after:
            x_TH = self.attention_norm(x_TH + self.attention(x_TH, step, rotary))
            return self.mlp_norm(x_TH + self.mlp(x_TH))
        attended_TH = self._attend(x_TH, step, rotary)
        if self.parallel:
            return (self._feed(x_TH) + attended_TH) + x_TH
        x_TH = x_TH + attended_TH
        return x_TH + self._feed(x_TH)

    def _attend(self, x_TH: Tensor, step: Step, rotary: dict) -> Tensor:
        y_TH = self.attention(self.attention_norm(x_TH), step, rotary)
        return y_TH if self.attention_post_norm is None else self.attention_post_norm(y_TH)

    def _feed(self, x_TH: Tensor) -> Tensor:
        y_TH = self.mlp(self.mlp_norm(x_TH))
        return y_TH if self.mlp_post_norm is None else self.mlp_post_norm(y_TH)
