"""How one of our parameters is made of a checkpoint's tensors: a few operations, so that a name map is a table.

An operation is a value. It can say which tensors it reads and which shape it makes of theirs, it reads any box of the parameter
(`read`, which asks for the bytes of that box and no others), and it can be read backwards (`invert`: from the parameter to the
tensors, for export). In a name, `@` stands for the family's wrapper prefix, which some checkpoints leave out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from brigade.checkpoint.box import Box, Shape
from brigade.checkpoint.tensor_source import TensorSource
from brigade.mesh import Run

ShapeOf = Callable[[str], Shape]


class Misfit(ValueError):
    """Tensors of these names, and of the shapes that they have, do not go together."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(", ".join(names))
        self.names = tuple(names)


class Operation(ABC):
    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The tensors that it reads."""

    @abstractmethod
    def renamed(self, rename: Callable[[str], str]) -> Operation:
        """The same of tensors with other names."""

    @abstractmethod
    def shape(self, stored: ShapeOf) -> Shape:
        """What it makes of tensors of these shapes, or a `Misfit`."""

    @abstractmethod
    def read(self, box: Box, source: TensorSource) -> Tensor:
        """A box of the parameter, of which no run is empty."""

    @property
    def is_turned(self) -> bool:
        """Whether a matrix that it reads is stored [in, out]."""
        return False

    @abstractmethod
    def invert(self, parameter: Tensor) -> dict[str, Tensor]:
        """The tensors that `read` would make the whole parameter of, as views of it where that is possible."""


NameMap = dict[str, Operation]


@dataclass(frozen=True)
class Take(Operation):
    name: str

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def renamed(self, rename: Callable[[str], str]) -> Take:
        return Take(rename(self.name))

    def shape(self, stored: ShapeOf) -> Shape:
        return stored(self.name)

    def read(self, box: Box, source: TensorSource) -> Tensor:
        return source.read(self.name, box)

    def invert(self, parameter: Tensor) -> dict[str, Tensor]:
        return {self.name: parameter}


@dataclass(frozen=True)
class _Of(Operation):
    """Made of what other operations make."""

    of: tuple[Operation, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for part in self.of for name in part.names)

    @property
    def is_turned(self) -> bool:
        return any(part.is_turned for part in self.of)

    def renamed(self, rename: Callable[[str], str]) -> Operation:
        return replace(self, of=tuple(part.renamed(rename) for part in self.of))


@dataclass(frozen=True)
class Transposed(_Of):
    """Of one that is stored [in, out]."""

    @property
    def is_turned(self) -> bool:
        return True

    def shape(self, stored: ShapeOf) -> Shape:
        return self.of[0].shape(stored)[::-1]

    def read(self, box: Box, source: TensorSource) -> Tensor:
        return self.of[0].read(box[::-1], source).t()

    def invert(self, parameter: Tensor) -> dict[str, Tensor]:
        return self.of[0].invert(parameter.t())


@dataclass(frozen=True)
class Joined(_Of):
    """Row after row. `rows`: how many each has, which is needed to take them apart again."""

    rows: tuple[int, ...] | None = None

    def shape(self, stored: ShapeOf) -> Shape:
        shapes = [part.shape(stored) for part in self.of]
        if not all(shape and shape[1:] == shapes[0][1:] for shape in shapes):
            raise Misfit(self.names)
        found = tuple(shape[0] for shape in shapes)
        if self.rows is not None and found != self.rows:
            raise Misfit(self.names)
        return (sum(found), *shapes[0][1:])

    def read(self, box: Box, source: TensorSource) -> Tensor:
        (first, last), begin, pieces = box[0], 0, []
        for part in self.of:
            end = begin + part.shape(source.shape)[0]
            if first < end and begin < last:
                pieces.append(part.read(((max(first, begin) - begin, min(last, end) - begin), *box[1:]), source))
            begin = end
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def invert(self, parameter: Tensor) -> dict[str, Tensor]:
        if self.rows is None:
            raise ValueError(f"how many rows each of {', '.join(self.names)} has is not known; give joined(...) its rows")
        pieces = parameter.split(list(self.rows))
        return {name: tensor for part, piece in zip(self.of, pieces, strict=True) for name, tensor in part.invert(piece).items()}


@dataclass(frozen=True)
class PerHead(_Of):
    """Rows stored head by head as (q, k, v), sorted: all q first, then all k, then all v."""

    heads: int

    def shape(self, stored: ShapeOf) -> Shape:
        shape = self.of[0].shape(stored)
        if not shape or shape[0] % (3 * self.heads):
            raise Misfit(self.names)
        return shape

    def read(self, box: Box, source: TensorSource) -> Tensor:
        rows = self.of[0].shape(source.shape)[0]
        if box[0] == (0, rows):
            return self._sorted(self.of[0].read(box, source), (self.heads, 3))
        pieces = [self.of[0].read((run, *box[1:]), source) for run in self._stored(box[0], rows // (3 * self.heads))]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def invert(self, parameter: Tensor) -> dict[str, Tensor]:
        return self.of[0].invert(self._sorted(parameter, (3, self.heads)))

    @staticmethod
    def _sorted(rows: Tensor, outer: tuple[int, int]) -> Tensor:
        return rows.reshape(*outer, -1, *rows.shape[1:]).transpose(0, 1).reshape(rows.shape)

    def _stored(self, run: Run, depth: int) -> Iterator[Run]:
        """Where the rows of a run lie: within one head's q, k or v they are neighbours."""
        at = run[0]
        while at < run[1]:
            (kind, head), inside = divmod(at // depth, self.heads), at % depth
            count = min(depth - inside, run[1] - at)
            begin = (3 * head + kind) * depth + inside
            yield begin, begin + count
            at += count


@dataclass(frozen=True)
class Stacked(_Of):
    """One above the other, along a new first axis: [experts, ...]."""

    def shape(self, stored: ShapeOf) -> Shape:
        first = self.of[0].shape(stored)
        for part in self.of:
            if part.shape(stored) != first:
                raise Misfit((*self.of[0].names, *part.names))
        return (len(self.of), *first)

    def read(self, box: Box, source: TensorSource) -> Tensor:
        pieces = [part.read(box[1:], source) for part in self.of[slice(*box[0])]]
        return pieces[0].unsqueeze(0) if len(pieces) == 1 else torch.stack(pieces)

    def invert(self, parameter: Tensor) -> dict[str, Tensor]:
        return {name: tensor for part, piece in zip(self.of, parameter, strict=True) for name, tensor in part.invert(piece).items()}


@dataclass(frozen=True)
class Padded(_Of):
    """The first `rows` of the `stored` that the file has: the others fill it up, and are zeros where it is written."""

    rows: int
    stored: int

    def shape(self, stored: ShapeOf) -> Shape:
        shape = self.of[0].shape(stored)
        if not shape or shape[0] != self.stored or self.rows > self.stored:
            raise Misfit(self.names)
        return (self.rows, *shape[1:])

    def read(self, box: Box, source: TensorSource) -> Tensor:
        return self.of[0].read(box, source)

    def invert(self, parameter: Tensor) -> dict[str, Tensor]:
        after = [0, 0] * (parameter.dim() - 1)
        return self.of[0].invert(functional.pad(parameter, [*after, 0, self.stored - self.rows]))


# What tables are written in. Instead of a name each takes an operation too.
def take(name: str | Operation) -> Operation:
    return Take(name) if isinstance(name, str) else name


def transposed(name: str | Operation) -> Operation:
    return Transposed((take(name),))


def joined(*names: str | Operation, rows: int | tuple[int, ...] | None = None) -> Operation:
    """`rows` of each, one number where they are alike."""
    if len(names) == 1:
        return take(names[0])
    return Joined(tuple(map(take, names)), (rows,) * len(names) if isinstance(rows, int) else rows)


def per_head_qkv(name: str | Operation, heads: int) -> Operation:
    return PerHead((take(name),), heads)


def stacked(parts: Sequence[str | Operation | Sequence[str]]) -> Operation:
    """A part that is several names is these joined."""
    return Stacked(tuple(take(part) if isinstance(part, (str, Operation)) else joined(*part) for part in parts))


def padded(name: str | Operation, rows: int, stored: int) -> Operation:
    return Padded((take(name),), rows, stored)


def weight_and_bias(ours: str, make: Callable[[str], Operation], theirs: str, bias: bool) -> NameMap:
    """The two tensors of a linear layer or a LayerNorm."""
    entries = {f"{ours}.weight": make(f"{theirs}.weight")}
    if bias:
        # A bias has no second axis to turn.
        entries[f"{ours}.bias"] = take(f"{theirs}.bias") if make is transposed else make(f"{theirs}.bias")
    return entries


def with_prefix(table: NameMap, prefix: str) -> NameMap:
    """`@` written out."""
    return {
        ours: operation.renamed(lambda name: prefix + name[1:] if name.startswith("@") else name)
        for ours, operation in table.items()
    }


def inverted(table: NameMap, parameters: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The table read backwards: the checkpoint's tensors, made of our parameters."""
    for ours, operation in table.items():
        yield from operation.invert(parameters[ours]).items()
