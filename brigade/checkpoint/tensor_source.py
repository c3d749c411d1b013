"""Where tensors come from: a folder of safetensors, a seed. Whoever wants a part of a tensor asks for that part alone."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import Tensor

from brigade.checkpoint.box import Box, Shape, shape_of, whole


class TensorSource(ABC):
    """Named tensors. Each is read when it is asked for, and kept by nobody here."""

    asked = 0  # bytes that were read so far

    @abstractmethod
    def shape(self, name: str) -> Shape: ...

    @abstractmethod
    def dtype(self, name: str) -> torch.dtype: ...

    @abstractmethod
    def place(self, name: str) -> Path | str:
        """What an error says: the file that the tensor is in."""

    def read(self, name: str, box: Box | None = None) -> Tensor:
        """A box of a tensor, or all of it, in memory of its own."""
        box = whole(self.shape(name)) if box is None else box
        self.asked += math.prod(shape_of(box)) * self.dtype(name).itemsize
        return self._read(name, box)

    @abstractmethod
    def _read(self, name: str, box: Box) -> Tensor: ...


class _Beside(TensorSource):
    """The tensors of another source, which is asked for something else than their values."""

    def __init__(self, source: TensorSource) -> None:
        self.source = source

    def shape(self, name: str) -> Shape:
        return self.source.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self.source.dtype(name)

    def place(self, name: str) -> Path | str:
        return self.source.place(name)


class Counted(_Beside):
    """Reads nothing: the tensors have shapes and no values. `asked` counts the bytes that reading them would ask for."""

    def _read(self, name: str, box: Box) -> Tensor:
        return torch.empty(shape_of(box), dtype=self.dtype(name), device="meta")


class Searched(_Beside):
    """Counts the numbers of each tensor that are NaN or infinite, of what is read."""

    def __init__(self, source: TensorSource) -> None:
        super().__init__(source)
        self.found: dict[str, tuple[int, int, int]] = {}  # NaN, infinite, all that were looked at

    def _read(self, name: str, box: Box) -> Tensor:
        tensor = self.source.read(name, box)
        nan, infinite, seen = self.found.get(name, (0, 0, 0))
        self.found[name] = (nan + int(tensor.isnan().sum()), infinite + int(tensor.isinf().sum()), seen + tensor.numel())
        return tensor
