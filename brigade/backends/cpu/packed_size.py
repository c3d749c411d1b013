"""How much memory a model's weights will take once they are packed, known before any of them is read."""

from __future__ import annotations

from typing import Any

import torch

from brigade.backends.cpu.cut import ROWS, on_panel_border
from brigade.backends.cpu.matrix import ARRAYS, Layout
from brigade.backends.cpu.model_matrices import ModelMatrix, matrices_of
from brigade.backends.cpu.packer import cut_of, plain_tensors
from brigade.backends.cpu.quant import Quant


def packed_bytes(model: Any, quant: Quant, dtype: torch.dtype) -> int:
    """Of all packed matrices and of the tensors used as they are; `model` has shapes and need have no weights. A test holds it
    against what `prepare` makes."""
    own = str(dtype).removeprefix("torch.")
    plain = sum(tensor.numel() for tensor in plain_tensors(model).values()) * dtype.itemsize
    return plain + sum(_bytes(Layout(quant.of(one.name, own), one.n, one.k, **one.how), one.has_bias) for one in matrices_of(model))


def cut_inside_panels(model: Any, quant: Quant) -> list[str]:
    """Which kinds of matrices a rank's part cuts by outputs, but not on a border of panels: out of an artifact they are repacked.
    All others lie in it as runs of whole panels."""
    found: dict[str, None] = {}
    for one in matrices_of(model):
        cut = cut_of(model.cuts, one.name, one.parameter)
        if cut is None or cut.axis != ROWS:
            continue
        whole = Layout(quant.of(one.name, "bfloat16"), _whole_outputs(one, model), one.k, **one.how)
        if not on_panel_border(whole, cut):
            kind = ".".join(part for part in one.name.split(".") if not part.isdecimal())
            found[kind.removeprefix("layers.")] = None
    return list(found)


def _whole_outputs(one: ModelMatrix, model: Any) -> int:
    """Of the matrix that this is a part of; key-value heads may be there several times."""
    config = model.config
    if one.name == "head":
        return config.vocab_size
    if one.name.endswith("attention.qkv"):
        return (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    return one.n * model.held.tp


def _bytes(layout: Layout, has_bias: bool) -> int:
    *arrays, bias = zip(layout.counts(), ARRAYS.values(), strict=True)
    return sum(count * _itemsize(kind) for count, kind in arrays) + has_bias * bias[0] * _itemsize(bias[1])


def _itemsize(kind: Any) -> int:
    return kind().itemsize
