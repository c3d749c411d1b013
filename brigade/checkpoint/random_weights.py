"""Deterministic weights for a model without a checkpoint.

An element is a pure function of (seed, parameter name, its index in the whole tensor): any rank makes its own slice with the
same bits. One mixed 64-bit counter gives four elements of 16 bits each.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from brigade.checkpoint.box import Box, Shape, shape_of, stretches, whole
from brigade.checkpoint.tensor_source import TensorSource

STD = 0.02
_CHUNK = 1 << 16  # counters at once, so that the work stays in the cache


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_MULTIPLIERS = (_signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB))


def _mix(counters: Tensor) -> Tensor:
    """The finaliser of SplitMix64 on 64-bit integers; torch shifts with the sign, so it is masked away."""
    for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
        counters = (counters ^ ((counters >> shift) & ((1 << (64 - shift)) - 1))) * multiplier
    return counters ^ ((counters >> 31) & ((1 << 33) - 1))


def _key(seed: int, name: str) -> int:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def uniform_elements(seed: int, name: str, starts: np.ndarray, length: int, std: float) -> Tensor:
    """Stretches of a tensor's elements, [starts, length]: uniform with mean 0 and the given deviation, in float32."""
    out, starts_R = torch.empty(len(starts), length), torch.from_numpy(starts)
    key, scale, lanes = _key(seed, name), std * math.sqrt(3) / 32768, torch.tensor([0, 16, 32, 48])
    at_once = min(length, 4 * _CHUNK)  # of one stretch
    rows = max(1, 4 * _CHUNK // max(at_once, 4))
    for left in range(0, length, at_once):
        count = min(at_once, length - left)
        for top in range(0, len(starts), rows):
            first_R = starts_R[top : top + rows] + left
            into_RC = out[top : top + rows, left : left + count]
            counters = first_R[:, None] // 4 + torch.arange((count + 6) // 4)
            drawn = (_mix(counters * _signed(0x9E3779B97F4A7C15) + key).unsqueeze(-1) >> lanes).flatten(1)
            inside_R = first_R % 4  # how many of a counter's four are before the stretch
            if bool((inside_R == inside_R[0]).all()):
                drawn = drawn[:, int(inside_R[0]) :][:, :count]
            else:
                drawn = drawn.gather(1, inside_R[:, None] + torch.arange(count))
            into_RC.copy_(drawn & 0xFFFF)
            into_RC.sub_(32767.5).mul_(scale)
    return out


def random_parameter(seed: int, name: str, shape: Shape, box: Box | None = None, norm_offset: float = 0.0) -> Tensor:
    """One parameter, or a box of it. Norm weights are 1 in effect, biases small, matrices of deviation 0.02."""
    box = whole(shape) if box is None else box
    if name.endswith("norm.weight"):
        return torch.full(shape_of(box), 1.0 - norm_offset)
    return uniform_elements(seed, name, *stretches(shape, box), STD).view(shape_of(box))


class RandomTensors(TensorSource):
    """A network's own parameters, drawn from a seed."""

    def __init__(self, seed: int, norm_offset: float, shapes: Mapping[str, Shape]) -> None:
        self.seed, self.norm_offset, self.shapes = seed, norm_offset, shapes

    def shape(self, name: str) -> Shape:
        return self.shapes[name]

    def dtype(self, name: str) -> torch.dtype:
        return torch.float32

    def place(self, name: str) -> str:
        return f"the random weights of seed {self.seed}"

    def _read(self, name: str, box: Box) -> Tensor:
        return random_parameter(self.seed, name, self.shapes[name], box, self.norm_offset)
