"""A counter-based generator: a number is a function of (seed, position), of no state and no order of calls.

The mixing is that of SplitMix64 (Steele, Lea and Flood, 2014), applied to the seed and then to the position.
"""

from __future__ import annotations

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
    return (mix(mix(seed) ^ (position & _MASK)) >> 11) * 2.0**-53


def derive_seed(seed: int, index: int) -> int:
    """The seed of the index-th sample of a request; the first has the request's own."""
    return seed if index == 0 else mix(mix(seed) ^ mix(index))
