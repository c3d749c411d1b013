"""A counter-based generator: a number is a function of (seed, position), of no state and no order of calls.

The mixing is that of SplitMix64 (Steele, Lea and Flood, 2014), applied to the seed and then to the position.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

UNIFORM_BITS = 53

_MASK = (1 << 64) - 1
_STRIDE = 0x9E3779B97F4A7C15


def mix(x: int) -> int:
    """A bijection of 64 bits in which every input bit moves every output bit."""
    x = (x + _STRIDE) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) with 53 random bits."""
    return uniform_bits(seed, position) * 2.0**-UNIFORM_BITS


def uniform_bits(seed: int, position: int) -> int:
    """The same number as an integer below 2**53."""
    return mix(mix(seed) ^ (position & _MASK)) >> (64 - UNIFORM_BITS)


def uniform_bits_batch(seeds: Sequence[int], positions: Sequence[int]) -> np.ndarray:
    """`uniform_bits` of every pair."""
    keys = _mix_array(np.array([seed & _MASK for seed in seeds], np.uint64))
    return _mix_array(keys ^ np.array(positions, np.uint64)) >> np.uint64(64 - UNIFORM_BITS)


def _mix_array(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(_STRIDE)  # arrays of uint64 wrap around silently
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def derive_seed(seed: int, index: int) -> int:
    """The seed of the index-th sample of a request; the first has the request's own."""
    return seed if index == 0 else mix(mix(seed) ^ mix(index))
