"""Inverse CDF: one uniform number of (seed, position) against the running sum of the masses in order of id.

The token is the first whose running sum exceeds floor(u * total), u a multiple of 2**-53. All of it is integer arithmetic, so
neither the order of a sum nor what is left out of it, tokens without mass, can show.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from brigade.engine.sampling import native
from brigade.engine.sampling.filters import kept_weights
from brigade.engine.sampling.masses import masses
from brigade.engine.sampling.rng import UNIFORM_BITS, uniform_bits_batch
from brigade.engine.sampling.row import SampleRow
from brigade.engine.sampling.settings import Settings


def draw(logits: np.ndarray, greatest: np.ndarray, settings: Settings, rows: Sequence[SampleRow]) -> list[int]:
    """One id a row, from logits after penalties."""
    if native.is_there():
        return native.draw(logits, greatest, settings, uniform_bits(rows))
    return pick(masses(kept_weights(torch.from_numpy(logits), settings).numpy()), uniform_bits(rows))


def pick(mass: np.ndarray, bits: np.ndarray) -> list[int]:
    """The first column of each row whose running sum exceeds its target. Every row has some mass."""
    sums = np.cumsum(mass, axis=1)
    # In Python's integers, because a product of 53 and 63 bits has to be exact.
    targets = [(b * total) >> UNIFORM_BITS for b, total in zip(bits.tolist(), sums[:, -1].tolist(), strict=True)]
    return (sums > np.array(targets)[:, None]).argmax(axis=1).tolist()


def uniform_bits(rows: Sequence[SampleRow]) -> np.ndarray:
    return uniform_bits_batch([row.seed for row in rows], [row.position for row in rows])
