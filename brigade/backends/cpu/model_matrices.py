"""Every matrix of a model that the kernels want packed, known before any weight is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from brigade.backends.cpu.layer import fits
from brigade.backends.cpu.packer import LINEARS


@dataclass(frozen=True)
class ModelMatrix:
    """What this rank holds of it: `n` outputs, `k` inputs. `how`: what its `Layout` says beside them. `parameter`: the name of its
    weight, where that is another."""

    name: str
    n: int
    k: int
    has_bias: bool
    how: dict[str, Any] = field(default_factory=dict)
    parameter: str | None = None


def matrices_of(model: Any) -> Iterator[ModelMatrix]:
    """In no particular order."""
    own = zip(model.held.layers, model.own_layers, strict=True)
    native = {f"layers.{index}.mlp.up": layer.mlp for index, layer in own if fits(layer)}
    for name, module in model.named_modules():
        kind = type(module).__name__
        if kind in LINEARS:
            mlp = native.get(name)
            gate = {} if mlp is None else {"gated": mlp.gated, "activation": mlp.activation}
            share = {"share": module.share} if kind == "RowLinear" else {}
            yield ModelMatrix(name, *module.weight.shape, module.bias is not None, {"tree": kind == "RowLinear", **share, **gate})
        elif kind == "ExpertWeights":
            for part, how in (("up", {"tree": False}), ("down", {"tree": True, "share": module.share})):
                experts, *shape = getattr(module, part).shape
                yield from (ModelMatrix(f"{name}.{part}.{expert}", *shape, False, how) for expert in range(experts))
    if model.head is None and model.held.is_last:
        yield ModelMatrix("head", *model.embedding.word.shape, False, {"tree": False}, "embedding.word")
