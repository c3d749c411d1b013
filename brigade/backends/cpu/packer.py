"""A model's matrices by name: packed from its weights, or taken as an artifact holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from brigade.backends.cpu.cut import ROWS, Place, part_of, place_of, take_part
from brigade.backends.cpu.matrix import Layout, PackedMatrix, pack
from brigade.backends.cpu.quant import Quant
from brigade.backends.exchange import Alone, Exchange
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

    def prove(self, places: Mapping[str, Place], cuts: Mapping[str, Cut | None]) -> None:
        """Called before anything is read, with what will be: where in which matrices, and what of which tensors. Of memory there is
        nothing to prove; what lies in files is refused here where it is damaged."""


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
    """Called once for each matrix of a model. A matrix without storage (on the meta device) is taken from `ready`, which holds
    whole ones; or this rank's share of it is read from `weights`, packed, and dropped. `cuts` says what that share is. What is in
    place already is this rank's part.

    A matrix that is cut along K has one exchange with the ranks that hold the rest, if its scheme has scales of whole columns. All
    ranks of a group pack the same matrices in the same order."""

    def __init__(
        self,
        quant: Quant,
        weights: Weights | None = None,
        ready: PackedModel | None = None,
        cuts: Mapping[str, Cut] | None = None,
        exchange: Exchange | None = None,
    ) -> None:
        self.quant, self.weights, self.ready, self.cuts = quant, weights, ready, cuts or {}
        self.exchange = Alone() if exchange is None else exchange
        self.matrices: dict[str, PackedMatrix] = {}
        self._arena = Arena()

    def __call__(
        self, name: str, weight_NK: Tensor, bias_N: Tensor | None, parameter: str | None = None, **how: Any
    ) -> PackedMatrix:
        """`parameter`: the name of the weight, where that is not the matrix's own with `.weight` behind it."""
        assert name not in self.matrices, name
        cut = cut_of(self.cuts, name, parameter)
        if self.ready is not None:
            whole = self._whole(name, tuple(weight_NK.shape), bias_N is not None, cut, how)
            # Never the given matrix itself: what is read after it is this model's own affair.
            packed = PackedMatrix.over(whole.layout, whole.arrays) if cut is None else take_part(whole, cut, self._arena)
        else:
            packed = self._pack(name, weight_NK, bias_N, cut, how)
        assert packed.shape == tuple(weight_NK.shape) and packed.layout.share == how.get("share", 1), f"{name}: {packed.layout}"
        self.matrices[name] = packed
        return packed

    def place(
        self, name: str, shape: tuple[int, int], has_bias: bool, parameter: str | None = None, how: Mapping[str, Any] | None = None
    ) -> Place:
        """What a call with the same arguments will take of `ready`; refused where it has none such."""
        cut = cut_of(self.cuts, name, parameter)
        return place_of(self._whole(name, shape, has_bias, cut, how or {}).layout, cut)

    def _pack(self, name: str, weight_NK: Tensor, bias_N: Tensor | None, cut: Cut | None, how: dict[str, Any]) -> PackedMatrix:
        weight_NK = self._read(name, "weight", weight_NK, cut)
        if bias_N is not None:  # of a sum over K the whole one, which is added once
            bias_N = self._read(name, "bias", bias_N, cut if cut is not None and cut.axis == ROWS else None)
        shared = how.get("share", 1) > 1
        maximum = self.exchange.maximum if shared else None
        assert not shared or self.exchange.size == how["share"], (
            f"{name} is one of {how['share']} parts among {self.exchange.size} ranks"
        )
        scheme = self.quant.of(name, str(weight_NK.dtype).removeprefix("torch."))
        return pack(weight_NK, bias_N, scheme, arena=self._arena, maximum=maximum, **how)

    def _read(self, name: str, kind: str, given: Tensor, cut: Cut | None) -> Tensor:
        if not given.is_meta:
            return given
        assert self.weights is not None, name
        experts, _, index = name.rpartition(".")
        if index.isdigit():  # only an expert's matrix has a number for its last name
            return self.weights.take_part(experts, int(index), cut)
        return self.weights.take(f"{name}.{kind}", cut)

    def _whole(
        self, name: str, shape: tuple[int, int], has_bias: bool, cut: Cut | None, how: Mapping[str, Any]
    ) -> PackedMatrix:  # fmt: skip
        """The matrix that `ready` has of this name, which must be the one of which the architecture's is a part."""
        assert self.ready is not None
        packed = self.ready.matrices.get(name)
        if packed is None:
            raise CheckpointError(f"the artifact has no matrix {name}, which its architecture needs; export it again")
        found = packed.layout
        n, k = shape
        if cut is not None and cut.axis == ROWS:  # of the whole is known that the part lies inside; if gated, where up begins
            last = max(last for _, last in cut.runs)
            n = 2 * (cut.runs[1][0] - cut.runs[0][0]) if how.get("gated") else max(found.n, last)
        elif cut is not None:
            k *= how["share"]
        expected = Layout(found.scheme, n, k, group=found.group, **(how if cut is None else {**how, "share": 1}))
        if found != expected or packed.has_bias != has_bias:
            raise CheckpointError(f"the artifact holds {name} as {found}, its architecture needs {expected}; export it again")
        part = found if cut is None else part_of(found, cut)
        assert (part.n, part.k, part.share) == (*shape, how.get("share", 1)), f"{name}: {part} for {shape}"
        return packed

    @property
    def unused(self) -> set[str]:
        return set() if self.ready is None else set(self.ready.matrices) - set(self.matrices)
