"""A source whose tensors the test holds, and which keeps an account of what it was asked for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from brigade.checkpoint.box import Box, Shape
from brigade.checkpoint.tensor_source import TensorSource


def cut_out(tensor: Tensor, box: Box) -> Tensor:
    return tensor[tuple(slice(first, last) for first, last in box)]


class InMemory(TensorSource):
    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self.reads: list[tuple[str, Box]] = []

    def shape(self, name: str) -> Shape:
        return tuple(self.tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self.tensors[name].dtype

    def place(self, name: str) -> str:
        return "memory"

    def _read(self, name: str, box: Box) -> Tensor:
        assert all(0 <= first < last <= size for (first, last), size in zip(box, self.shape(name), strict=True)), (name, box)
        self.reads.append((name, box))
        return cut_out(self.tensors[name], box).clone()
