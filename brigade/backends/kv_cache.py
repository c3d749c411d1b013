"""The tensors that hold keys and values; which block belongs to whom is the engine's business."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from brigade.backends import huge_pages


@dataclass(frozen=True)
class KVCache:
    """Per layer one tensor of keys and one of values, [blocks, kv heads, block size, head dim]; of the layers from `first_layer`
    on."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    first_layer: int = 0

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
        first_layer: int = 0,
    ) -> KVCache:
        shape = (num_blocks, num_kv_heads, block_size, head_dim)

        def tensors() -> tuple[Tensor, ...]:
            # Zeroed: a tile's unused tail is multiplied by a weight of zero, and zero times an uninitialised NaN is NaN.
            if torch.device(device).type == "cpu":
                return tuple(_huge_zeros(shape, dtype) for _ in range(num_layers))
            return tuple(torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers))

        return cls(tensors(), tensors(), first_layer)

    @property
    def num_blocks(self) -> int:
        return self.keys[0].shape[0]

    @property
    def block_size(self) -> int:
        return self.keys[0].shape[2]

    def of(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, by its number in the whole network."""
        return self.keys[layer - self.first_layer], self.values[layer - self.first_layer]

    def address(self, layer: int) -> tuple[int, int]:
        """Where a layer's keys and values begin, for native code."""
        return self._addresses[layer - self.first_layer]

    @cached_property
    def _addresses(self) -> tuple[tuple[int, int], ...]:
        """Asked for once: every layer wants its own at every step."""
        return tuple((keys.data_ptr(), values.data_ptr()) for keys, values in zip(self.keys, self.values, strict=True))

    @cached_property
    def address_lists(self) -> tuple[ctypes.Array, ctypes.Array]:
        """The same of all layers here: of keys, and of values."""
        keys, values = zip(*self._addresses, strict=True)
        list_of_all = ctypes.c_void_p * len(keys)
        return list_of_all(*keys), list_of_all(*values)

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.keys + self.values)


def _huge_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(huge_pages.zeros(math.prod(shape) * dtype.itemsize)).view(dtype).view(shape)
