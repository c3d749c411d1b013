"""Deterministic weights for a model without a checkpoint.

An element is a pure function of (seed, parameter name, its index in the whole tensor): any rank makes its own slice with the
same bits. One mixed 64-bit counter gives four elements of 16 bits each.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

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


def uniform_elements(seed: int, name: str, start: int, count: int, std: float) -> Tensor:
    """Elements start .. start + count - 1 of a tensor, uniform with mean 0 and the given deviation, in float32."""
    out = torch.empty(count)
    key, scale = _key(seed, name), std * math.sqrt(3) / 32768
    lanes = torch.tensor([0, 16, 32, 48])
    first, last = start // 4, (start + count + 3) // 4
    for low in range(first, last, _CHUNK):
        counters = torch.arange(low, min(low + _CHUNK, last)) * _signed(0x9E3779B97F4A7C15) + key
        values = ((_mix(counters).unsqueeze(1) >> lanes) & 0xFFFF).flatten().float().sub_(32767.5).mul_(scale)
        begin = max(low * 4, start)
        end = min(low * 4 + values.numel(), start + count)
        out[begin - start : end - start] = values[begin - low * 4 : end - low * 4]
    return out


def random_parameter(seed: int, name: str, shape: tuple[int, ...], rows: slice | None = None, norm_offset: float = 0.0) -> Tensor:
    """One parameter, or some of its rows. Norm weights are 1 in effect, biases small, matrices of deviation 0.02."""
    first, last, _ = (rows or slice(None)).indices(shape[0])
    inner = math.prod(shape[1:])
    part = (last - first, *shape[1:])
    if name.endswith("norm.weight"):
        return torch.full(part, 1.0 - norm_offset)
    return uniform_elements(seed, name, first * inner, (last - first) * inner, STD).view(part)
