"""A model's matrices by name: packed from its weights, or taken as an artifact holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from brigade.backends.cpu.cut import ROWS, SPANNING, cut_matrix, part_of
from brigade.backends.cpu.matrix import Layout, PackedMatrix, pack
from brigade.backends.cpu.quant import Quant
from brigade.backends.huge_pages import Arena
from brigade.backends.weights import Weights
from brigade.errors import CheckpointError
from brigade.mesh import Cut

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


def cut_of(cuts: Mapping[str, Cut], name: str, parameter: str | None = None) -> Cut | None:
    """What a rank holds of a matrix, by the name of its parameter: `name` with `.weight` behind it, all experts' together, or
    `parameter`."""
    experts, _, index = name.rpartition(".")
    return cuts.get(experts if index.isdigit() else parameter or f"{name}.weight")


class Packer:
    """Called once for each matrix of a model. A matrix without storage (on the meta device) is taken from `ready`, or read from
    `weights`, packed, and dropped. Both hold whole matrices: of one that `cuts` names a part is taken. What is in place already is
    this rank's part."""

    def __init__(
        self,
        quant: Quant,
        weights: Weights | None = None,
        ready: PackedModel | None = None,
        cuts: Mapping[str, Cut] | None = None,
    ) -> None:
        self.quant, self.weights, self.ready, self.cuts = quant, weights, ready, cuts or {}
        self.matrices: dict[str, PackedMatrix] = {}
        self._arena = Arena()

    def __call__(
        self, name: str, weight_NK: Tensor, bias_N: Tensor | None, parameter: str | None = None, **how: Any
    ) -> PackedMatrix:
        """`parameter`: the name of the weight, where that is not the matrix's own with `.weight` behind it."""
        assert name not in self.matrices, name
        cut = cut_of(self.cuts, name, parameter)
        if self.ready is not None:
            packed = self._take(name, weight_NK, bias_N, cut, how)
        elif weight_NK.is_meta and cut is not None:
            packed = self._pack_part(name, tuple(weight_NK.shape), bias_N, cut, how)
        else:
            weight_NK = self._read(name, "weight", weight_NK)
            bias_N = None if bias_N is None else self._read(name, "bias", bias_N)
            packed = pack(weight_NK, bias_N, self._scheme(name, weight_NK), arena=self._arena, **how)
        self.matrices[name] = packed
        return packed

    def _scheme(self, name: str, weight_NK: Tensor) -> str:
        return self.quant.of(name, str(weight_NK.dtype).removeprefix("torch."))

    def _pack_part(self, name: str, shape: tuple[int, ...], bias_N: Tensor | None, cut: Cut, how: dict[str, Any]) -> PackedMatrix:
        """Cut first where that gives the same bytes, since packing is the longer work."""
        whole_NK = self._read(name, "weight", None)
        bias_N = None if bias_N is None else self._read(name, "bias", bias_N)
        scheme = self._scheme(name, whole_NK)
        if cut.axis != ROWS and scheme in SPANNING:
            packed = cut_matrix(pack(whole_NK, bias_N, scheme, **{**how, "share": 1}), cut, self._arena)
        else:
            if bias_N is not None and cut.axis == ROWS:
                bias_N = cut.of(bias_N)
            packed = pack(cut.of(whole_NK), bias_N, scheme, arena=self._arena, **how)
        assert packed.shape == shape and packed.layout.share == how.get("share", 1), f"{name}: {packed.layout} for {shape}"
        return packed

    def _read(self, name: str, kind: str, given: Tensor | None) -> Tensor:
        if given is not None and not given.is_meta:
            return given
        assert self.weights is not None, name
        experts, _, index = name.rpartition(".")
        if index.isdigit():  # only an expert's matrix has a number for its last name
            return self.weights.take_part(experts, int(index))
        return self.weights.take(f"{name}.{kind}")

    def _take(self, name: str, weight_NK: Tensor, bias_N: Tensor | None, cut: Cut | None, how: dict[str, Any]) -> PackedMatrix:
        assert self.ready is not None
        packed = self.ready.matrices.get(name)
        if packed is None:
            raise CheckpointError(f"the artifact has no matrix {name}, which its architecture needs; export it again")
        found = packed.layout
        n, k = weight_NK.shape
        if cut is not None and cut.axis == ROWS:  # of the whole is known that the part lies inside; if gated, where up begins
            last = max(last for _, last in cut.runs)
            n = 2 * (cut.runs[1][0] - cut.runs[0][0]) if how.get("gated") else max(found.n, last)
        elif cut is not None:
            k *= how["share"]
        expected = Layout(found.scheme, n, k, group=found.group, **(how if cut is None else {**how, "share": 1}))
        if found != expected or packed.has_bias != (bias_N is not None):
            raise CheckpointError(f"the artifact holds {name} as {found}, its architecture needs {expected}; export it again")
        if cut is None:
            return packed
        part = part_of(found, cut)
        assert (part.n, part.k, part.share) == (*weight_NK.shape, how.get("share", 1)), (
            f"{name}: {part} for {tuple(weight_NK.shape)}"
        )
        return cut_matrix(packed, cut, self._arena)

    @property
    def unused(self) -> set[str]:
        return set() if self.ready is None else set(self.ready.matrices) - set(self.matrices)
