"""How one of our parameters is made of a checkpoint's tensors: a few named operations, so that a name map is a table.

In a name, `@` stands for the family's wrapper prefix, which some checkpoints leave out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Source:
    names: tuple[str, ...]
    combine: Callable[[Sequence[Tensor]], Tensor]
    turned: bool = False  # stored [in, out]


NameMap = dict[str, Source]


def take(name: str) -> Source:
    return Source((name,), lambda parts: parts[0])


def transposed(name: str) -> Source:
    """For weights stored [in, out]."""
    return Source((name,), lambda parts: parts[0].t(), turned=True)


def joined(*names: str) -> Source:
    """Row after row: q, k, v; or gate, up."""
    return Source(names, lambda parts: torch.cat(list(parts), dim=0))


def per_head_qkv(name: str, heads: int) -> Source:
    """For rows stored head by head as (q, k, v): all q first, then all k, then all v."""

    def combine(parts: Sequence[Tensor]) -> Tensor:
        stored = parts[0]
        return stored.view(heads, 3, -1, *stored.shape[1:]).transpose(0, 1).reshape(stored.shape)

    return Source((name,), combine)


def stacked(rows: Sequence[Sequence[str]]) -> Source:
    """One matrix an expert, itself of parts joined by rows: [experts, ...]."""
    width = len(rows[0])

    def combine(parts: Sequence[Tensor]) -> Tensor:
        whole = [torch.cat(list(parts[i : i + width]), dim=0) for i in range(0, len(parts), width)]
        return torch.stack(whole)

    return Source(tuple(name for row in rows for name in row), combine)


def weight_and_bias(ours: str, make: Callable[[str], Source], theirs: str, bias: bool) -> NameMap:
    """The two tensors of a linear layer or a LayerNorm."""
    entries = {f"{ours}.weight": make(f"{theirs}.weight")}
    if bias:
        # A bias has no second axis to turn.
        entries[f"{ours}.bias"] = take(f"{theirs}.bias") if make is transposed else make(f"{theirs}.bias")
    return entries
