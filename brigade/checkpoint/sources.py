"""How one of our parameters is made of a checkpoint's tensors: a few named operations, so that a name map is a table.

In a name, `@` stands for the family's wrapper prefix, which some checkpoints leave out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Source:
    """`parts`: the parameter is a stack of that many, each combined of an equal run of `names` and read without the others."""

    names: tuple[str, ...]
    combine: Callable[[Sequence[Tensor]], Tensor]
    turned: bool = False  # stored [in, out]
    parts: int = 0
    form: Callable[[Sequence[Shape]], Shape] | None = None  # the shape that `combine` gives, to be known before a tensor is read

    def part(self, index: int) -> tuple[str, ...]:
        """The names that part `index` is combined of."""
        width = len(self.names) // self.parts
        return self.names[index * width : (index + 1) * width]


NameMap = dict[str, Source]


def _rows(shapes: Sequence[Shape]) -> Shape:
    if not all(shape and shape[1:] == shapes[0][1:] for shape in shapes):
        raise ValueError("rows of unlike shapes")
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


def take(name: str) -> Source:
    return Source((name,), lambda parts: parts[0], form=lambda shapes: shapes[0])


def transposed(name: str) -> Source:
    """For weights stored [in, out]."""
    return Source((name,), lambda parts: parts[0].t(), turned=True, form=lambda shapes: shapes[0][::-1])


def joined(*names: str) -> Source:
    """Row after row: q, k, v; or gate, up."""
    return Source(names, lambda parts: torch.cat(list(parts), dim=0), form=_rows)


def per_head_qkv(name: str, heads: int) -> Source:
    """For rows stored head by head as (q, k, v): all q first, then all k, then all v."""

    def combine(parts: Sequence[Tensor]) -> Tensor:
        stored = parts[0]
        return stored.view(heads, 3, -1, *stored.shape[1:]).transpose(0, 1).reshape(stored.shape)

    def form(shapes: Sequence[Shape]) -> Shape:
        if not shapes[0] or shapes[0][0] % (3 * heads):
            raise ValueError("rows that heads cannot share")
        return shapes[0]

    return Source((name,), combine, form=form)


def stacked(rows: Sequence[Sequence[str]]) -> Source:
    """One matrix an expert, itself of parts joined by rows: [experts, ...]."""
    return Source(
        tuple(name for row in rows for name in row), lambda parts: torch.cat(list(parts), dim=0), parts=len(rows), form=_rows
    )


def weight_and_bias(ours: str, make: Callable[[str], Source], theirs: str, bias: bool) -> NameMap:
    """The two tensors of a linear layer or a LayerNorm."""
    entries = {f"{ours}.weight": make(f"{theirs}.weight")}
    if bias:
        # A bias has no second axis to turn.
        entries[f"{ours}.bias"] = take(f"{theirs}.bias") if make is transposed else make(f"{theirs}.bias")
    return entries
