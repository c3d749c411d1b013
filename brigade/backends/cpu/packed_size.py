"""How much memory a model's weights will take once they are packed, known before any of them is read."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch

from brigade.backends.cpu.cut import ROWS, on_panel_border
from brigade.backends.cpu.layer import fits
from brigade.backends.cpu.matrix import ARRAYS, Layout
from brigade.backends.cpu.packer import LINEARS, cut_of, plain_tensors
from brigade.backends.cpu.quant import Quant


def packed_sizes(model: Any, quant: Quant, dtype: torch.dtype) -> dict[str, int]:
    """Of every packed matrix and of the tensors used as they are; `model` has shapes and need have no weights. A test holds it
    against what `prepare` makes."""
    plain = {name: tensor.numel() * dtype.itemsize for name, tensor in plain_tensors(model).items()}
    return plain | {name: _bytes(layout, bias) for name, layout, bias in _layouts(model, quant, dtype)}


def packed_layouts(model: Any, quant: Quant, dtype: torch.dtype) -> dict[str, Layout]:
    """Of every packed matrix."""
    return {name: layout for name, layout, _ in _layouts(model, quant, dtype)}


def cut_inside_panels(model: Any, quant: Quant) -> list[str]:
    """Which kinds of matrices a rank's part cuts by outputs, but not on a border of panels. Others are a run of whole panels."""
    found: dict[str, None] = {}
    for name, n, k, _, how in _matrices(model):
        cut = cut_of(model.cuts, name, "embedding.word" if name == "head" and model.head is None else None)
        if cut is None or cut.axis != ROWS:
            continue
        whole = Layout(quant.of(name, "bfloat16"), _whole_outputs(name, n, model), k, **how)
        if not on_panel_border(whole, cut):
            kind = ".".join(part for part in name.split(".") if not part.isdecimal())
            found[kind.removeprefix("layers.")] = None
    return list(found)


def _whole_outputs(name: str, n: int, model: Any) -> int:
    """Of the matrix that this is a part of; key-value heads may be there several times."""
    config = model.config
    if name == "head":
        return config.vocab_size
    if name.endswith("attention.qkv"):
        return (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    return n * model.held.tp


@lru_cache(maxsize=4096)  # a model has many matrices of few shapes
def _bytes(layout: Layout, has_bias: bool) -> int:
    *arrays, bias = zip(layout.counts(), ARRAYS.values(), strict=True)
    return sum(count * _itemsize(kind) for count, kind in arrays) + has_bias * bias[0] * _itemsize(bias[1])


def _itemsize(kind: Any) -> int:
    return kind().itemsize


def _layouts(model: Any, quant: Quant, dtype: torch.dtype) -> Iterator[tuple[str, Layout, bool]]:
    """With whether there is a bias."""
    own = str(dtype).removeprefix("torch.")
    for name, n, k, bias, how in _matrices(model):
        yield name, Layout(quant.of(name, own), n, k, **how), bias


def _matrices(model: Any) -> Iterator[tuple[str, int, int, bool, dict[str, Any]]]:
    """Name, outputs, inputs, whether there is a bias, and how it is packed, of every matrix that `prepare` packs."""
    own = zip(model.held.layers, model.own_layers, strict=True)
    native = {f"layers.{index}.mlp.up": layer.mlp for index, layer in own if fits(layer)}
    for name, module in model.named_modules():
        kind = type(module).__name__
        if kind in LINEARS:
            mlp = native.get(name)
            gate = {} if mlp is None else {"gated": mlp.gated, "activation": mlp.activation}
            share = {"share": module.share} if kind == "RowLinear" else {}
            yield name, *module.weight.shape, module.bias is not None, {"tree": kind == "RowLinear", **share, **gate}
        elif kind == "ExpertWeights":
            for part, how in (("up", {"tree": False}), ("down", {"tree": True, "share": module.share})):
                experts, *shape = getattr(module, part).shape
                yield from ((f"{name}.{part}.{expert}", *shape, False, how) for expert in range(experts))
    if model.head is None and model.held.is_last:
        yield "head", *model.embedding.word.shape, False, {"tree": False}
