"""A model's weights, read one tensor at a time, rounded, and proven to be numbers. Of a share no more is read than the share."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from brigade.backends.base import Backend
from brigade.backends.weights import Weights
from brigade.checkpoint.box import Shape, boxes_of
from brigade.checkpoint.operations import Misfit, NameMap, Operation
from brigade.checkpoint.safetensors_folder import shown
from brigade.checkpoint.tensor_source import Counted, Searched, TensorSource
from brigade.errors import CheckpointError
from brigade.mesh import Cut

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Held:
    """Weights are rounded to `dtype`, and lie as the backend wants them."""

    backend: Backend
    dtype: torch.dtype


class SourceWeights(Weights):
    """A source's tensors, put together by a name map. A stack of matrices is read, checked and held matrix by matrix.

    `shapes` are the whole model's. That the source's tensors give them is proven before one is read. `taken` are the names that
    will be asked for, where those are not all.
    """

    def __init__(
        self, source: TensorSource, table: NameMap, shapes: Mapping[str, Shape], held: Held, progress: Progress | None = None,
        taken: Collection[str] | None = None,
    ) -> None:  # fmt: skip
        self.source, self.table, self.shapes, self.held = source, table, shapes, held
        for name, operation in table.items():
            self._check_shape(name, operation)
        self._progress, self._done = progress, 0
        self._total = sum(self._parts(name) or 1 for name in (shapes if taken is None else taken))

    def take(self, name: str, cut: Cut | None = None) -> Tensor:
        parts = self._parts(name)
        if not parts:
            return self._take(name, None, cut)
        first = self.take_part(name, 0, cut)
        stack = torch.empty((parts, *first.shape), dtype=first.dtype, device=first.device)
        stack[0] = first
        del first
        for index in range(1, parts):
            stack[index] = self.take_part(name, index, cut)
        return stack

    def take_part(self, name: str, index: int, cut: Cut | None = None) -> Tensor:
        return self._take(name, index, cut)

    def bytes_of(self, name: str, cut: Cut | None = None) -> int:
        """How many bytes `take` would ask for. Nothing is read."""
        counted = Counted(self.source)
        for _ in self._pieces(name, None, cut, counted)[1]:
            pass
        return counted.asked

    def _parts(self, name: str) -> int:
        """Of how many matrices this parameter is a stack; 0 where it is none."""
        return self.shapes[name][0] if len(self.shapes[name]) == 3 else 0

    def _take(self, name: str, index: int | None, cut: Cut | None) -> Tensor:
        axis, pieces = self._pieces(name, index, cut, self.source)
        held, finite = list[Tensor](), list[bool]()
        for piece in pieces:
            tensor, is_finite = self.held.backend.hold_tensor(piece, self.held.dtype)
            held.append(tensor)
            finite.append(is_finite)
            del piece, tensor  # before the next one is read
        if not all(finite):
            self._refuse(name, index, cut)
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)
        return held[0] if len(held) == 1 else torch.cat(held, axis)

    def _pieces(self, name: str, index: int | None, cut: Cut | None, source: TensorSource) -> tuple[int, Iterator[Tensor]]:
        """What a share is read in, and along which axis the pieces follow each other."""
        shape = self.shapes[name]
        stack = () if index is None else ((index, index + 1),)
        axis, boxes = boxes_of(cut, shape[len(stack) :])
        pieces = (self.table[name].read((*stack, *box), source) for box in boxes)
        if stack:
            pieces = (piece[0] for piece in pieces)
        return axis, pieces

    def _check_shape(self, name: str, operation: Operation) -> None:
        shape, source = self.shapes[name], self.source
        try:
            made = operation.shape(source.shape)
        except Misfit as error:
            shapes = ", ".join(f"{shown(stored)} {list(source.shape(stored))}" for stored in error.names)
            raise CheckpointError(f"{shapes} cannot form {name} {list(shape)}; config.json and weights disagree") from error
        if made != shape:
            names = operation.names
            raise CheckpointError(
                f"{', '.join(map(shown, names[:3]))} in {source.place(names[0])} gives shape {list(made)}, but config.json means "
                f"{list(shape)} for {name}; config.json and weights disagree"
            )

    def _refuse(self, name: str, index: int | None, cut: Cut | None) -> None:
        """Read again, to name what is wrong with it."""
        searched = Searched(self.source)
        for _ in self._pieces(name, index, cut, searched)[1]:
            pass
        for stored, (nan, infinite, seen) in searched.found.items():
            if nan or infinite:
                size = math.prod(self.source.shape(stored))
                looked_at = f"{size}" if seen == size else f"the {seen} (of {size}) that this rank reads"
                raise CheckpointError(
                    f"tensor {shown(stored)} in {self.source.place(stored)} holds {nan} NaN and {infinite} infinite values of "
                    f"{looked_at}; fetch the file again, or train the model again"
                )
        raise CheckpointError(
            f"{name} in {self.source.place(self.table[name].names[0])} holds values too large for "
            f"{str(self.held.dtype).removeprefix('torch.')}; use --dtype float32"
        )
