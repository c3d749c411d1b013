"""A transformer layer as one native call."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from brigade.backends.base import Step
from brigade.backends.cpu.library import BrAttention, BrLayer, kernels
from brigade.backends.cpu.matrix import PackedNorm, pack_norm

if TYPE_CHECKING:
    from brigade.backends.cpu.native_exchange import NativeExchange
    from brigade.backends.cpu.packer import Packer


class NativeNorm(nn.Module):
    """Takes the place of a `Norm` outside the native layers: packed once, not at every step."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.packed = pack_norm(norm.kind, norm.weight.shape[0], norm.weight, norm.bias, norm.eps, norm.offset)

    def forward(self, x_TH: Tensor) -> Tensor:
        return self.packed(x_TH)


class NativeLayer(nn.Module):
    """Takes the place of a `TransformerLayer` once its weights are there. Experts stay in Python, around native products.

    A call changes nothing in here: several threads may drive one model, each with a cache of its own.
    """

    reads_rotary = False  # angles are looked up by position inside

    def __init__(
        self, layer: Any, place: str, packer: Packer, table: Any, last: bool = False, exchange: NativeExchange | None = None
    ) -> None:
        """`exchange`: with the ranks among whom the layer's matrices are cut, if there are any."""
        super().__init__()
        self.last = last  # returns the wanted rows alone: of the others only keys and values are ever read
        attention = layer.attention
        self.params, self.rope = attention.params, attention.rope
        self.moe = None if _is_dense(layer.mlp) else layer.mlp
        self.mlp_norm, self.post_norm = layer.mlp_norm, layer.mlp_post_norm
        heads, kv_heads, dim = attention.shape
        native = BrLayer(norm_after=layer.norm_after, parallel=layer.parallel, has_mlp=self.moe is None)
        self.exchange = exchange
        if exchange is not None:
            native.exchange = exchange.address
        self._alive: list[Any] = [table]
        for name, norm in (
            ("attention_norm", layer.attention_norm), ("mlp_norm", layer.mlp_norm),
            ("attention_post", layer.attention_post_norm), ("mlp_post", layer.mlp_post_norm),
        ):  # fmt: skip
            if norm is not None:
                setattr(native, name, self._norm(norm).struct)
        native.has_attention_post, native.has_mlp_post = layer.attention_post_norm is not None, layer.mlp_post_norm is not None
        a = self.params
        native.attention = BrAttention(
            heads=heads, kv_heads=kv_heads, dim=dim, window=a.window or 0, scale=a.scale, softcap=a.softcap or 0.0,
            clip=attention.clip or 0.0, norm_heads=attention.norm_heads,
        )  # fmt: skip
        for name, norm in (("q_norm", attention.q_norm), ("k_norm", attention.k_norm)):
            if norm is not None:
                setattr(native.attention, name, ctypes.addressof(self._norm(norm).struct))
        if self.rope is not None:
            native.attention.rotary, native.attention.interleaved = self.rope.rotary_dim // 2, self.rope.interleaved
            native.attention.cos, native.attention.sin = table.cos.data_ptr(), table.sin.data_ptr()
        native.qkv = self._matrix(attention.qkv, packer, f"{place}.attention.qkv", tree=False)
        native.out = self._shared(attention.out, packer, f"{place}.attention.out")
        if self.moe is None:
            mlp = layer.mlp
            native.up = self._matrix(mlp.up, packer, f"{place}.mlp.up", tree=False, gated=mlp.gated, activation=mlp.activation)
            native.down = self._shared(mlp.down, packer, f"{place}.mlp.down")
        self.native = native

    def _norm(self, norm: Any) -> PackedNorm:
        packed = NativeNorm(norm).packed
        self._alive.append(packed)
        return packed

    def _shared(self, linear: Any, packer: Packer, name: str) -> ctypes.Structure:
        ranks = 1 if self.exchange is None else self.exchange.exchange.size
        assert linear.share == ranks, f"{name} is one of {linear.share} parts among {ranks} ranks"
        return self._matrix(linear, packer, name, tree=True, share=linear.share)

    def _matrix(self, linear: Any, packer: Packer, name: str, **how: Any) -> ctypes.Structure:
        packed = packer(name, linear.weight, linear.bias, **how)
        linear.weight = linear.bias = None  # the packed form is the only one from here on
        self._alive.append(packed)
        return packed.struct

    def forward(self, x_TH: Tensor, step: Step, rotary: dict) -> Tensor:
        assert step.cache is not None
        keys, values = step.cache.address(self.params.layer)
        native, plan = ctypes.byref(self.native), ctypes.byref(step.attention.struct)
        if self.last and step.logit_rows is not None:
            all_TH, count = x_TH, step.attention.wanted_count
            x_TH = torch.empty(count, all_TH.shape[1])
            wanted = (all_TH.data_ptr(), step.attention.wanted, count)
            result = kernels().br_last_layer(native, plan, keys, values, *wanted, x_TH.data_ptr())
        else:
            result = kernels().br_layer(native, plan, keys, values, x_TH.data_ptr())
        if self.exchange is not None:
            self.exchange.check(result)
        if self.moe is None:
            return x_TH
        y_TH = self.moe(self.mlp_norm(x_TH))
        return x_TH + (y_TH if self.post_norm is None else self.post_norm(y_TH))


def _is_dense(mlp: Any) -> bool:
    """A block of somebody's own is called as it is, like experts."""
    return type(mlp).__name__ == "MLP"


def fits(layer: Any) -> bool:
    """Whether the native layer knows this arrangement; experts only in the plain pre-norm one."""
    return _is_dense(layer.mlp) or not (layer.parallel or layer.norm_after)
