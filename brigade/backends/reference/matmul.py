"""Matrix products whose elements do not depend on how many rows or outputs there are.

A library chooses its algorithm by the shape, so the same row can come out with another last bit in a larger batch. On a GPU
the products are our own (`gpu_products`), in one order for every shape. Elsewhere there are two ways around it, the first that a
short probe of the machine proves:

- **direct**: one library call. Holds where the library promises a strict order (`MKL_CBWR` with STRICT, asked for in
  `brigade.backends.reference.strict`), for at least `MIN_ROWS` rows: a single row takes a matrix-vector routine.
- **tiled**: calls of one shape only, `TILE_ROWS` rows by at most `TILE_K` of the summed axis, their sums added in order.
  A call of one shape is one algorithm, and a short K is one pass of it.

Either takes at least `MIN_OUTPUTS` outputs at once, filled up with zeros: fewer go another way through the library, and ranks that
share a matrix have fewer than one rank alone.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from brigade.errors import ConfigError

MIN_ROWS = 4
MIN_OUTPUTS = 32
TILE_ROWS = 16
TILE_K = 256


class Matmul(Protocol):
    name: str
    row_quantum: int

    def __call__(self, x_MK: Tensor, weight_NK: Tensor) -> Tensor: ...


def pad_rows(x: Tensor, quantum: int) -> Tensor:
    missing = -x.shape[0] % quantum
    return functional.pad(x, (0, 0, 0, missing)) if missing else x


def wide_enough(weight_NK: Tensor) -> Tensor:
    missing = MIN_OUTPUTS - weight_NK.shape[0]
    return functional.pad(weight_NK, (0, 0, 0, missing)) if missing > 0 else weight_NK


class DirectMatmul:
    name, row_quantum = "direct", MIN_ROWS

    def __call__(self, x_MK: Tensor, weight_NK: Tensor) -> Tensor:
        rows, outputs = x_MK.shape[0], weight_NK.shape[0]
        if rows >= MIN_ROWS and outputs >= MIN_OUTPUTS:
            return functional.linear(x_MK, weight_NK)
        x_MK = x_MK if rows >= MIN_ROWS else pad_rows(x_MK, MIN_ROWS)
        return functional.linear(x_MK, wide_enough(weight_NK))[:rows, :outputs]


class TiledMatmul:
    name, row_quantum = "tiled", TILE_ROWS

    def __call__(self, x_MK: Tensor, weight_NK: Tensor) -> Tensor:
        rows, depth = x_MK.shape
        outputs, weight_NK = weight_NK.shape[0], wide_enough(weight_NK)
        x = pad_rows(x_MK, TILE_ROWS)
        out = x.new_empty(x.shape[0], weight_NK.shape[0])
        for m in range(0, x.shape[0], TILE_ROWS):
            tile = functional.linear(x[m : m + TILE_ROWS, :TILE_K].contiguous(), weight_NK[:, :TILE_K])
            for k in range(TILE_K, depth, TILE_K):
                part = x[m : m + TILE_ROWS, k : k + TILE_K].contiguous()
                tile = tile + functional.linear(part, weight_NK[:, k : k + TILE_K])
            out[m : m + TILE_ROWS] = tile
        return out[:rows, :outputs]


PROBE_SHAPES = ((64, 96), (1000, 136), (1024, 256))  # K, N
PROBE_ROWS = (1, 2, 3, 5, 16, 33, 64, 100)


def rows_hold(matmul: Matmul, device: torch.device) -> bool:
    """Whether every row equals itself in a larger product, on this machine, for the probed shapes."""
    generator = torch.Generator().manual_seed(1)
    for depth, width in PROBE_SHAPES:
        x = torch.randn(160, depth, generator=generator).to(device)
        weight = torch.randn(width, depth, generator=generator).to(device)
        whole = matmul(x, weight)
        if not all(torch.equal(matmul(x[3 : 3 + m], weight), whole[3 : 3 + m]) for m in PROBE_ROWS):
            return False
    return True


@cache
def ordered_products(device_type: str) -> ModuleType | None:
    """`gpu_products`, where it can be used."""
    if device_type != "cuda":
        return None
    try:
        from brigade.backends.reference import gpu_products

        one = torch.ones(1, 1, 1, device=device_type)
        gpu_products.multiply(one, one)
    except Exception:  # no Triton, or one that cannot build for this GPU: the library's own products are tried, and have to hold
        return None
    return gpu_products


def multiply_each(x_BMK: Tensor, weight_BNK: Tensor) -> Tensor:
    """A product for every one of B, [B, M, N]."""
    own = ordered_products(x_BMK.device.type)
    return torch.bmm(x_BMK, weight_BNK.transpose(1, 2)) if own is None else own.multiply(x_BMK, weight_BNK)


def choose_matmul(device: torch.device) -> Matmul:
    """The fastest way that holds here; none is an error, since an unproven one would break the promise silently."""
    own = ordered_products(device.type)
    for candidate in (DirectMatmul(), TiledMatmul()) if own is None else (own.GpuMatmul(),):
        if rows_hold(candidate, device):
            return candidate
    raise ConfigError(
        f"the matrix products of torch {torch.__version__} on {device} change with the number of rows, in every way this "
        "backend knows; results would depend on the batch. Start with --backend reference --exact off to accept that"
    )
