"""Rotary tables: the angle of every position, computed once in the precision the checkpoints were trained with.

Frequencies and angles are rounded to float32 after every operation, as in the libraries that checkpoints are trained with. The
operations are those of `elementary.py` and float32 basics of numpy, so the table's bits are the same on every machine.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from brigade.config import RopeConfig
from brigade.model.elementary import cos_sin, log, power

TWO_PI = float.fromhex("0x1.921fb54442d18p+2")


def inverse_frequencies(rope: RopeConfig, length: int) -> np.ndarray:
    """One frequency in float32 for each rotated pair of channels, after the family's length scaling. `length`: of the table."""
    exponents = np.arange(0, rope.rotary_dim, 2).astype(np.float32) / np.float32(rope.rotary_dim)
    powers = power(rope.theta, exponents).astype(np.float32)
    base = np.float32(1.0) / powers
    match rope.scaling:
        case "linear":
            return base / np.float32(rope.factor)
        case "llama3":
            return _llama3(base, rope)
        case "yarn":
            return _yarn(powers, rope)
        case "longrope":
            factors = rope.long_factors if rope.is_long(length) else rope.short_factors
            return np.float32(1.0) / (np.array(factors, np.float32) * powers)
    return base


def _llama3(base: np.ndarray, rope: RopeConfig) -> np.ndarray:
    """Slow waves are stretched by the factor, fast ones kept, those between are blended."""
    wavelength, one = np.float32(TWO_PI) / base, np.float32(1.0)
    slow = np.float32(rope.original_positions / rope.low_freq_factor)
    fast = np.float32(rope.original_positions / rope.high_freq_factor)
    turns, between = np.float32(rope.original_positions) / wavelength, rope.high_freq_factor - rope.low_freq_factor
    blend = (turns - np.float32(rope.low_freq_factor)) / np.float32(between)
    stretched = base / np.float32(rope.factor)
    middle = (one - blend) * base / np.float32(rope.factor) + blend * base
    return np.where(wavelength > slow, stretched, np.where(wavelength >= fast, middle, base))


def _yarn(powers: np.ndarray, rope: RopeConfig) -> np.ndarray:
    """Channels that turn often within the trained length keep their frequency, the others are interpolated."""

    def channel(turns: float) -> float:
        return (rope.rotary_dim * log(rope.original_positions / (turns * TWO_PI))) / (2 * log(rope.theta))

    low, high = channel(rope.beta_fast), channel(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.rotary_dim - 1)
    width = 0.001 if high == low else high - low
    ramp = np.clip((np.arange(rope.rotary_dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(width), 0, 1)
    keep = np.float32(1.0) - ramp
    interpolated = np.float32(1.0) / (np.float32(rope.factor) * powers)
    return interpolated * (np.float32(1.0) - keep) + (np.float32(1.0) / powers) * keep


class RopeTable:
    """cos and sin for positions 0 .. length - 1, each [length, rotary_dim / 2]."""

    def __init__(self, rope: RopeConfig, length: int, device: torch.device | str = "cpu") -> None:
        with np.errstate(over="ignore"):  # a frequency beyond float32 is refused with its angles
            frequencies = inverse_frequencies(rope, length)
        cos, sin = cos_sin(length, frequencies)
        if rope.attention_factor != 1.0:
            cos *= np.float32(rope.attention_factor)
            sin *= np.float32(rope.attention_factor)
        self.cos, self.sin = (torch.from_numpy(table).to(device) for table in (cos, sin))
        self.interleaved = rope.interleaved

    @staticmethod
    def bytes(rope: RopeConfig, length: int) -> int:
        """Of both tables, in float32."""
        return length * rope.rotary_dim * 4
