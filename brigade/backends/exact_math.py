"""Sums whose order is fixed by construction: elementwise additions only, so rows, threads and devices cannot show."""

from __future__ import annotations

import torch
from torch import Tensor


def halving_sum(x: Tensor) -> Tensor:
    """Sum of the last axis (kept, of size 1) as a fixed tree: the upper half is added onto the lower until one is left.

    The width is first filled with zeros to a power of two, so the tree depends on the width alone.
    """
    width = x.shape[-1]
    half = 1 << max((width - 1).bit_length() - 1, 0)
    if width == 1:
        return x
    if width < 2 * half:
        folded = x[..., :half].clone()
        folded[..., : width - half] += x[..., half:]
        x = folded
    else:
        x = x[..., :half] + x[..., half:]
    while half > 1:
        half //= 2
        x = x[..., :half] + x[..., half:]
    return x


def pair_tree(parts: list[Tensor]) -> Tensor:
    """Add neighbours, then neighbours of those: the binary tree that every layout walks the same way."""
    while len(parts) > 1:
        parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def tree_width(k: int, most: int) -> int:
    """The largest power of two up to `most` that cuts K evenly."""
    width = most
    while k % width:
        width //= 2
    return width


def gelu_tanh(x: Tensor) -> Tensor:
    inner = (x + x * x * x * 0.044715) * 0.7978845608028654
    return x * 0.5 * (torch.tanh(inner) + 1.0)


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (torch.erf(x * 0.7071067811865476) + 1.0)


def silu(x: Tensor) -> Tensor:
    return x / (torch.exp(-x) + 1.0)


# Composed of operations whose scalar and vector forms agree. The fused kernels of these functions treat the end of a
# tensor by a scalar formula of its own, so an element's last bit would depend on where the tensor ends.
ACTIVATIONS = {"gelu": gelu, "gelu_tanh": gelu_tanh, "relu": torch.relu, "silu": silu}
