"""A backend that learns: differentiable torch over equal-length whole sequences, without a cache.

It makes no promise about bits (`exact = False`): its products run in bfloat16 where the processor has it, and a library
orders the sums. The master weights and the residual stream stay in float32.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from brigade.backends.base import AttentionParams, Backend, Step
from brigade.backends.kv_cache import KVCache
from brigade.batch import Batch
from brigade.config import Activation, NormKind
from brigade.errors import ConfigError

_ACTIVATIONS = {
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
}


@dataclass(frozen=True, slots=True)
class Sequences:
    """The shape behind the packed rows: `count` sequences of `length`."""

    count: int
    length: int


class TrainingBackend(Backend):
    name = "training"
    exact = False

    def __init__(self, device: torch.device | str = "cpu", product_dtype: torch.dtype = torch.float32) -> None:
        self.device, self.product_dtype = torch.device(device), product_dtype

    @property
    def numerics_id(self) -> str:
        return f"training-1/{self.device.type}/{self.product_dtype}/unordered"

    def begin_step(self, batch: Batch, cache: KVCache | None, windows: Iterable[int | None]) -> Step:
        lengths = {len(span.token_ids) for span in batch.spans}
        if cache is not None or len(lengths) != 1 or any(span.start for span in batch.spans):
            raise ConfigError("the training backend takes whole sequences of one length from position 0, and no cache")
        return self.step_of(torch.tensor([list(span.token_ids) for span in batch.spans], device=self.device))

    @staticmethod
    def step_of(ids_BL: Tensor) -> Step:
        """The step of a matrix of ids, without the detour over a batch."""
        count, length = ids_BL.shape
        positions_T = torch.arange(length, device=ids_BL.device).repeat(count)
        return Step(ids_BL.reshape(-1), positions_T, None, Sequences(count, length), None)

    def embed(self, ids_T: Tensor, table_VH: Tensor, onto_TH: Tensor | None = None) -> Tensor:
        found_TH = functional.embedding(ids_T, table_VH)
        return found_TH if onto_TH is None else onto_TH + found_TH

    def linear(self, x_TK: Tensor, weight_NK: Tensor, bias_N: Tensor | None) -> Tensor:
        dtype = self.product_dtype
        out = functional.linear(x_TK.to(dtype), weight_NK.to(dtype))
        return out if bias_N is None else out + bias_N

    def tree_linear(self, x_TK: Tensor, weight_NK: Tensor, bias_N: Tensor | None, share: int = 1) -> Tensor:
        assert share == 1
        return self.linear(x_TK, weight_NK, bias_N)

    def norm(
        self, kind: NormKind, x_TH: Tensor, weight_H: Tensor | None, bias_H: Tensor | None, eps: float, offset: float
    ) -> Tensor:
        weight = weight_H + offset if offset and weight_H is not None else weight_H
        if kind == "layernorm":
            return functional.layer_norm(x_TH, x_TH.shape[-1:], weight, bias_H, eps)
        return functional.rms_norm(x_TH, x_TH.shape[-1:], weight, eps)

    def rotate(self, x_TND: Tensor, cos_TR: Tensor, sin_TR: Tensor, interleaved: bool) -> Tensor:
        if interleaved:
            raise ConfigError("the training backend rotates by halves; this family interleaves")
        half = cos_TR.shape[-1]
        a, b, rest = x_TND[..., :half], x_TND[..., half : 2 * half], x_TND[..., 2 * half :]
        cos, sin = cos_TR.unsqueeze(1), sin_TR.unsqueeze(1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), dim=-1)

    def activate(self, kind: Activation, x: Tensor) -> Tensor:
        return _ACTIVATIONS[kind](x)

    def attention(self, q_TND: Tensor, k_TGD: Tensor, v_TGD: Tensor, params: AttentionParams, step: Step) -> Tensor:
        if params.window is not None or params.softcap is not None:
            raise ConfigError("the training backend has plain causal attention only; drop the window and the softcap")
        shape: Sequences = step.attention

        # In float32: its backward pass is the faster one on processors, and the scores want the precision.
        def split(x: Tensor) -> Tensor:  # [T, N, D] -> [B, N, L, D]
            return x.view(shape.count, shape.length, *x.shape[1:]).transpose(1, 2).float()

        mixed = functional.scaled_dot_product_attention(
            split(q_TND), split(k_TGD), split(v_TGD), is_causal=True, scale=params.scale,
            enable_gqa=q_TND.shape[1] != k_TGD.shape[1],
        )  # fmt: skip
        return mixed.transpose(1, 2).reshape(q_TND.shape)

    def softcap(self, x: Tensor, cap: float) -> Tensor:
        return torch.tanh(x / cap) * cap

    def softmax(self, x_TE: Tensor) -> Tensor:
        return functional.softmax(x_TE.float(), dim=-1)
