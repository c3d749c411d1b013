"""A model's matrices by name: packed from its weights, or taken as an artifact holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from brigade.backends.cpu.matrix import Layout, PackedMatrix, pack
from brigade.backends.cpu.quant import Quant
from brigade.backends.huge_pages import Arena
from brigade.backends.weights import Weights
from brigade.errors import CheckpointError

LINEARS = ("ColumnLinear", "RowLinear")


@dataclass(frozen=True)
class PackedModel:
    """All that a model holds: the packed matrices (with their biases), and the tensors that are used as they are."""

    tensors: Mapping[str, Tensor]
    matrices: Mapping[str, PackedMatrix]


def plain_tensors(model: Any) -> dict[str, Tensor]:
    """Norms, word and position table: every parameter that no product reads."""
    return {
        f"{name}.{key}" if name else key: parameter
        for name, module in model.named_modules()
        if type(module).__name__ not in (*LINEARS, "ExpertWeights")
        for key, parameter in module.named_parameters(recurse=False)
    }


class Packer:
    """Called once for each matrix of a model. A matrix without storage (on the meta device) is taken from `ready`, or read from
    `weights`, packed, and dropped."""

    def __init__(self, quant: Quant, weights: Weights | None = None, ready: PackedModel | None = None) -> None:
        self.quant, self.weights, self.ready = quant, weights, ready
        self.matrices: dict[str, PackedMatrix] = {}
        self._arena = Arena()

    def __call__(self, name: str, weight_NK: Tensor, bias_N: Tensor | None, **how: Any) -> PackedMatrix:
        assert name not in self.matrices, name
        if self.ready is not None:
            packed = self._take(name, weight_NK, bias_N, how)
        else:
            weight_NK = self._read(name, "weight", weight_NK)
            bias_N = None if bias_N is None else self._read(name, "bias", bias_N)
            scheme = self.quant.of(name, str(weight_NK.dtype).removeprefix("torch."))
            packed = pack(weight_NK, bias_N, scheme, arena=self._arena, **how)
        self.matrices[name] = packed
        return packed

    def _read(self, name: str, kind: str, given: Tensor) -> Tensor:
        if not given.is_meta:
            return given
        assert self.weights is not None, name
        experts, _, index = name.rpartition(".")
        if index.isdigit():  # only an expert's matrix has a number for its last name
            return self.weights.take_part(experts, int(index))
        return self.weights.take(f"{name}.{kind}")

    def _take(self, name: str, weight_NK: Tensor, bias_N: Tensor | None, how: dict[str, Any]) -> PackedMatrix:
        assert self.ready is not None
        packed = self.ready.matrices.get(name)
        if packed is None:
            raise CheckpointError(f"the artifact has no matrix {name}, which its architecture needs; export it again")
        expected = Layout(packed.layout.scheme, *weight_NK.shape, group=packed.layout.group, **how)
        if packed.layout != expected or packed.has_bias != (bias_N is not None):
            raise CheckpointError(
                f"the artifact holds {name} as {packed.layout}, its architecture needs {expected}; export it again"
            )
        return packed

    @property
    def unused(self) -> set[str]:
        return set() if self.ready is None else set(self.ready.matrices) - set(self.matrices)
