"""Rotary tables: the angle of every position, computed once in the precision the checkpoints were trained with."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from brigade.config import RopeConfig


def inverse_frequencies(rope: RopeConfig) -> Tensor:
    """One frequency for each rotated pair of channels, after the family's length scaling."""
    exponents = torch.arange(0, rope.rotary_dim, 2, dtype=torch.int64).float() / rope.rotary_dim
    base = 1.0 / (rope.theta**exponents)
    match rope.scaling:
        case "linear":
            return base / rope.factor
        case "llama3":
            return _llama3(base, rope)
        case "yarn":
            return _yarn(rope)
        case "longrope":
            return 1.0 / (torch.tensor(rope.channel_factors, dtype=torch.float32) * rope.theta**exponents)
    return base


def _llama3(base: Tensor, rope: RopeConfig) -> Tensor:
    """Slow waves are stretched by the factor, fast ones kept, those between are blended."""
    wavelength = 2 * math.pi / base
    slow = rope.original_positions / rope.low_freq_factor
    fast = rope.original_positions / rope.high_freq_factor
    blend = (rope.original_positions / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    middle = (1 - blend) * base / rope.factor + blend * base
    stretched = torch.where(wavelength > slow, base / rope.factor, base)
    return torch.where((wavelength <= slow) & (wavelength >= fast), middle, stretched)


def _yarn(rope: RopeConfig) -> Tensor:
    """Channels that turn often within the trained length keep their frequency, the others are interpolated."""

    def channel(turns: float) -> float:
        return (rope.rotary_dim * math.log(rope.original_positions / (turns * 2 * math.pi))) / (2 * math.log(rope.theta))

    low, high = max(math.floor(channel(rope.beta_fast)), 0), min(math.ceil(channel(rope.beta_slow)), rope.rotary_dim - 1)
    ramp = ((torch.arange(rope.rotary_dim // 2, dtype=torch.float32) - low) / max(high - low, 0.001)).clamp(0, 1)
    powers = rope.theta ** (torch.arange(0, rope.rotary_dim, 2).float() / rope.rotary_dim)
    keep = 1 - ramp
    return (1.0 / (rope.factor * powers)) * (1 - keep) + (1.0 / powers) * keep


class RopeTable:
    """cos and sin for positions 0 .. length - 1, each [length, rotary_dim / 2]."""

    def __init__(self, rope: RopeConfig, length: int, device: torch.device | str = "cpu") -> None:
        angles = torch.outer(torch.arange(length, dtype=torch.float32), inverse_frequencies(rope))
        self.cos = (angles.cos() * rope.attention_factor).to(device)
        self.sin = (angles.sin() * rope.attention_factor).to(device)
        self.interleaved = rope.interleaved
