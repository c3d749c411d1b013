"""The tensors that hold keys and values; which block belongs to whom is the engine's business."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class KVCache:
    """Per layer one tensor of keys and one of values, [blocks, kv heads, block size, head dim]."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @classmethod
    def allocate(
        cls,
        num_layers: int,
        num_blocks: int,
        num_kv_heads: int,
        block_size: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> KVCache:
        shape = (num_blocks, num_kv_heads, block_size, head_dim)

        def tensors() -> tuple[Tensor, ...]:
            # Zeroed: a tile's unused tail is multiplied by a weight of zero, and zero times an uninitialised NaN is NaN.
            return tuple(zeros(shape, dtype, device) for _ in range(num_layers))

        return cls(tensors(), tensors())

    @property
    def num_blocks(self) -> int:
        return self.keys[0].shape[0]

    @property
    def block_size(self) -> int:
        return self.keys[0].shape[2]

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.keys + self.values)


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """On the CPU from pages that the system zeroes when they are first used: most of a cache never is, and writing
    gigabytes of zeros at start takes seconds. They begin on a cache line."""
    if torch.device(device).type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    size = math.prod(shape) * dtype.itemsize
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return torch.from_numpy(raw[start : start + size]).view(dtype).view(shape)
