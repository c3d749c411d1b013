"""Self-attention: project, normalise, rotate, attend, project back."""

from __future__ import annotations

from torch import Tensor, nn

from brigade.backends.base import AttentionParams, Backend, Step
from brigade.config import ModelConfig


class Attention(nn.Module):
    """`qkv` makes all heads at once: rows are [query heads; key heads; value heads]."""

    def __init__(
        self,
        config: ModelConfig,
        qkv: nn.Module,
        out: nn.Module,
        layer: int,
        backend: Backend,
        q_norm: nn.Module | None = None,
        k_norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.qkv, self.out, self.q_norm, self.k_norm = qkv, out, q_norm, k_norm
        self.backend, self.clip = backend, config.qkv_clip
        self.rope = config.layer_rope(layer)
        self.norm_heads = config.qk_norm == "head"
        self.shape = (config.num_heads, config.num_kv_heads, config.head_dim)
        self.params = AttentionParams(layer, config.scale, config.window(layer), config.attention_softcap)

    def forward(self, x_TH: Tensor, step: Step, rotary: dict) -> Tensor:
        q_TND, k_TGD, v_TGD = self.project(x_TH)
        if self.rope is not None:
            cos_TR, sin_TR = rotary[self.rope]
            q_TND = self.backend.rotate(q_TND, cos_TR, sin_TR, self.rope.interleaved)
            k_TGD = self.backend.rotate(k_TGD, cos_TR, sin_TR, self.rope.interleaved)
        mixed_TND = self.backend.attention(q_TND, k_TGD, v_TGD, self.params, step)
        return self.out(mixed_TND.reshape(x_TH.shape[0], -1))

    def project(self, x_TH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heads, kv_heads, dim = self.shape
        q, k, v = self.qkv(x_TH).split([heads * dim, kv_heads * dim, kv_heads * dim], dim=-1)
        q, k = self._normalise(q, self.q_norm), self._normalise(k, self.k_norm)
        if self.clip is not None:
            q, k, v = (x.clamp(-self.clip, self.clip) for x in (q, k, v))
        return q.reshape(-1, heads, dim), k.reshape(-1, kv_heads, dim), v.reshape(-1, kv_heads, dim)

    def _normalise(self, x: Tensor, norm: nn.Module | None) -> Tensor:
        if norm is None:
            return x
        return norm(x.reshape(-1, self.shape[2])).reshape(x.shape) if self.norm_heads else norm(x)
