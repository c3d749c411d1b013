"""Elementary functions made of single IEEE operations in a fixed order, so that their bits are the same on every machine.

A library's `pow`, `log`, `cos` and `sin` may have another last bit on another processor or in another version. Here are additions,
multiplications, divisions and roundings of float64 alone, element by element, in Python and numpy, which neither fuse nor reorder
them. Their errors are a few units of float64, or a millionth of one of float32: a result rounded to float32 is the nearest float32,
but for about one in a million that lies that near to the middle of two.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from brigade.errors import ConfigError

# ln 2 in two parts; the first has 32 bits, so that its product with any exponent of float64 is exact.
LN2 = (float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33"))
# pi / 2 in three parts; the first two have 30 bits, so that their products with fewer than 2**23 quarter turns are exact.
QUARTER = tuple(float.fromhex(part) for part in ("0x1.921fb54p+0", "0x1.10b46118p-30", "0x1.313198a2e037p-61"))
QUARTERS = float.fromhex("0x1.45f306dc9c883p-1")  # 2 / pi; its product is only rounded to a whole number
LARGEST_ANGLE = float((1 << 23) - 1)  # in radians: below 2**23 quarter turns by far
MOST_THREADS = 8
SQRT_HALF = float.fromhex("0x1.6a09e667f3bcdp-1")
EXP = tuple(1.0 / math.factorial(n) for n in range(14, 1, -1))  # of x**2 * p(x), the highest power first
SIN = tuple((-1.0) ** n / math.factorial(2 * n + 1) for n in range(7, 0, -1))  # of x + x**3 * p(x**2)
COS = tuple((-1.0) ** n / math.factorial(2 * n) for n in range(8, 0, -1))  # of 1 + x**2 * p(x**2)


def log(x: float) -> float:
    """The natural logarithm of a number above 0."""
    mantissa, exponent = math.frexp(x)  # exact
    if mantissa < SQRT_HALF:
        mantissa, exponent = mantissa * 2, exponent - 1
    s = (mantissa - 1.0) / (mantissa + 1.0)  # log(m) = 2 artanh(s), |s| < 0.172
    square, series = s * s, 0.0
    for n in range(25, 1, -2):
        series = series * square + 1.0 / n
    return exponent * LN2[0] + (2.0 * (s + s * (square * series)) + exponent * LN2[1])


def exp(x: np.ndarray) -> np.ndarray:
    """Of float64 between -700 and 700."""
    turns = np.rint(x * (1.0 / (LN2[0] + LN2[1])))
    rest = (x - turns * LN2[0]) - turns * LN2[1]
    series = np.full_like(rest, EXP[0])
    for coefficient in EXP[1:]:
        series = series * rest + coefficient
    scale = ((turns.astype(np.int64) + 1023) << 52).view(np.float64)  # 2 ** turns by its bits
    return (1.0 + (rest + rest * rest * series)) * scale


def power(base: float, exponents: np.ndarray) -> np.ndarray:
    """`base ** exponents` in float64."""
    return exp(exponents.astype(np.float64) * log(base))


class Turns:
    """cos and sin of float32 angles, in scratch memory that is used again for every block."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._float = [np.empty(shape) for _ in range(5)]
        self._int = [np.empty(shape, np.int32) for _ in range(2)]

    def __call__(self, angles: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> None:
        """Of at most as many rows as the scratch memory has, into float32 arrays."""
        rows = len(angles)
        x, square, c, s, turns = (array[:rows] for array in self._float)
        quarter, sign = (array[:rows] for array in self._int)
        np.multiply(angles, QUARTERS, out=turns, dtype=np.float64)
        np.rint(turns, out=turns)
        np.copyto(quarter, turns, casting="unsafe")
        x[...] = angles
        for part in QUARTER:
            x -= np.multiply(turns, part, out=square)
        np.multiply(x, x, out=square)
        _series(square, SIN, s)
        s *= square
        s *= x
        s += x
        _series(square, COS, c)
        c *= square
        c += 1.0
        # An odd number of quarter turns exchanges the two; the second and third quarter have cosines below 0, the last two sines.
        odd = np.bitwise_and(quarter, 1, out=sign).astype(bool)
        np.copyto(sin, s, casting="unsafe")
        np.copyto(sin, c, where=odd, casting="unsafe")
        np.copyto(cos, c, casting="unsafe")
        np.copyto(cos, s, where=odd, casting="unsafe")
        for first, out in ((0, sin), (1, cos)):
            np.add(quarter, first, out=sign)
            np.bitwise_and(sign, 2, out=sign)
            out.view(np.uint32)[...] ^= sign.view(np.uint32) << 30  # to the sign bit


def _series(x: np.ndarray, coefficients: tuple[float, ...], out: np.ndarray) -> None:
    out[...] = coefficients[0]
    for coefficient in coefficients[1:]:
        out *= x
        out += coefficient


def cos_sin(length: int, frequencies: np.ndarray, rows: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of position times frequency, [length, frequencies], in float32; the angle is rounded to float32 first. Made
    `rows` at a time, so that the work stays in the cache."""
    with np.errstate(over="ignore", invalid="ignore"):
        largest = np.float32(max(length - 1, 0)) * frequencies.max(initial=0.0)
    if not largest <= LARGEST_ANGLE:
        raise ConfigError(f"rotary angles reach {largest:g}, and {LARGEST_ANGLE:g} is the most; lower max_model_len, now {length}")
    cos, sin = (np.empty((length, len(frequencies)), np.float32) for _ in range(2))
    blocks = [(first, min(first + rows, length)) for first in range(0, length, rows)]

    def work(mine: list[tuple[int, int]]) -> None:
        turns = Turns((min(rows, length), len(frequencies)))
        for first, end in mine:
            angles = np.multiply.outer(np.arange(first, end, dtype=np.float32), frequencies)
            turns(angles, cos[first:end], sin[first:end])

    threads = min(MOST_THREADS, os.cpu_count() or 1, -(-len(blocks) // 8))
    if threads < 2:
        work(blocks)
    else:  # element by element, so it does not matter whose block it is
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, [blocks[first::threads] for first in range(threads)]))
    return cos, sin
