"""All that follows the embedding as one native call, for short steps: those of few rows through a model that is not large.

They take a few milliseconds. Python between their layers would cost 5 us each time: its own code and data were driven out of the
caches by the layer's weights. A longer step goes layer by layer, so that a signal is heard between two of them.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from brigade.backends.base import Step
from brigade.backends.cpu.layer import NativeLayer, NativeNorm
from brigade.backends.cpu.library import BrLayer, BrStack, kernels
from brigade.backends.cpu.matrix import PackedMatrix
from brigade.backends.cpu.packer import LINEARS

FEW_ROWS = 16
MOST_BYTES = 8 << 30  # of weights: a tenth of a second or two


class NativeStack:
    """A prepared model's layers, last norm and head. Like a layer it changes nothing but the count of finished layers."""

    def __init__(self, layers: list[NativeLayer], norm: NativeNorm | None, head: PackedMatrix) -> None:
        self._alive = (layers, norm, head)
        self._layers = (ctypes.POINTER(BrLayer) * len(layers))(*(ctypes.pointer(layer.native) for layer in layers))
        self._native = BrStack(
            layers=ctypes.addressof(self._layers), count=len(layers), head=head.struct, has_norm=norm is not None
        )
        if norm is not None:
            self._native.norm = norm.packed.struct
        self._columns = head.struct.n
        self._call, self._here = kernels().br_stack, ctypes.byref(self._native)

    @classmethod
    def of(cls, model: Any) -> NativeStack | None:
        """Of a prepared model; None where something between embedding and logits is computed in Python, or by other ranks too."""
        if not (model.held.is_first and model.held.is_last) or model.project_out is not None:
            return None
        layers, norm, head = model.own_layers, model.final_norm, _head_of(model)
        native = all(isinstance(layer, NativeLayer) and layer.moe is None and layer.exchange is None for layer in layers)
        short = sum(matrix.nbytes for matrix in model.packed.matrices.values()) <= MOST_BYTES
        if not (layers and native and short and head is not None and isinstance(norm, NativeNorm | None)):
            return None
        return cls(layers, norm, head)

    @property
    def finished(self) -> int:
        """Layers so far; a step under way counts on."""
        return self._native.finished

    def __call__(self, x_TH: Tensor, step: Step) -> Tensor | None:
        """Logits of the wanted rows, before a softcap; None where the step is too long. `x_TH` is written over."""
        plan, count = step.attention, x_TH.shape[0]
        if count > FEW_ROWS:
            return None
        assert step.cache is not None
        wanted = None
        if step.logit_rows is not None:
            wanted, count = plan.wanted, plan.wanted_count
        logits = torch.empty(count, self._columns)
        keys, values = step.cache.address_lists
        self._call(self._here, ctypes.byref(plan.struct), keys, values, x_TH.data_ptr(), wanted, count, logits.data_ptr())
        return logits


def _head_of(model: Any) -> PackedMatrix | None:
    """None where the head is one of somebody's own."""
    if model.head is None:
        return getattr(model.embedding.word, "head", None)
    weight = model.head.weight if type(model.head).__name__ in LINEARS else None
    return weight if isinstance(weight, PackedMatrix) else None
