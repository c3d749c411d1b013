"""Inverse CDF: one uniform number of (seed, position) against the running sum of the masses in order of id.

The token is the first whose running sum exceeds floor(u * total), u a multiple of 2**-53. All of it is integer arithmetic, so
it does not matter that the sum is taken in blocks, or over the kept tokens only: what is left out has no mass.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from brigade.engine.sampling.filters import Settings, thresholds
from brigade.engine.sampling.masses import groups, masses, weigh
from brigade.engine.sampling.rng import UNIFORM_BITS, uniform_bits_batch
from brigade.engine.sampling.row import SampleRow

BLOCK = 64


def draw(logits: np.ndarray, greatest: np.ndarray, settings: Settings, rows: Sequence[SampleRow]) -> list[int]:
    """One id a row, from logits after penalties."""
    bits = uniform_bits_batch([row.seed for row in rows], [row.position for row in rows])
    least = thresholds(logits, greatest, settings)
    narrow = least > -np.inf
    if narrow.all():
        return _draw_kept(logits, greatest, least, settings, bits).tolist()
    if not narrow.any():
        return _draw_all(logits, greatest, settings, bits).tolist()
    tokens = np.empty(len(rows), np.int64)
    few, all_ = np.flatnonzero(narrow), np.flatnonzero(~narrow)
    tokens[few] = _draw_kept(logits[few], greatest[few], least[few], settings.take(few), bits[few])
    tokens[all_] = _draw_all(logits[all_], greatest[all_], settings.take(all_), bits[all_])
    return tokens.tolist()


def pick(mass: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """The first column of each row whose running sum exceeds its target. Every row has some mass."""
    starts = np.arange(0, mass.shape[1], BLOCK)
    ends = np.cumsum(np.add.reduceat(mass, starts, axis=1), axis=1)
    # In Python's integers, because a product of 53 and 63 bits has to be exact.
    totals = ends[:, -1].tolist()
    targets = np.array([(b * total) >> UNIFORM_BITS for b, total in zip(bits.tolist(), totals, strict=True)], np.int64)
    rows = np.arange(len(mass))
    block = (ends > targets[:, None]).argmax(axis=1)
    before = np.where(block > 0, ends[rows, block - 1], 0)
    columns = block[:, None] * BLOCK + np.arange(BLOCK)
    inside = mass[rows[:, None], np.minimum(columns, mass.shape[1] - 1)]  # past the end the sum is reached already
    return block * BLOCK + (np.cumsum(inside, axis=1) > (targets - before)[:, None]).argmax(axis=1)


def _draw_all(logits: np.ndarray, greatest: np.ndarray, settings: Settings, bits: np.ndarray) -> np.ndarray:
    tokens = np.empty(len(logits), np.int64)
    use_min_p = bool(settings.min_p.any())
    for some in groups(*logits.shape):
        weights = weigh(logits[some], greatest[some], settings.temperature[some])
        if use_min_p:
            weights *= weights >= settings.min_p[some]
        tokens[some] = pick(masses(weights), bits[some])
    return tokens


def _draw_kept(logits: np.ndarray, greatest: np.ndarray, least: np.ndarray, settings: Settings, bits: np.ndarray) -> np.ndarray:
    """The same over the kept tokens alone, moved together into a narrow matrix in order of id."""
    count, vocabulary = logits.shape
    kept = np.flatnonzero(logits >= least[:, None])
    row = kept // vocabulary
    first = np.searchsorted(row, np.arange(count))
    place = np.arange(kept.size) - first[row]
    weights = weigh(logits.reshape(-1)[kept], greatest[row, 0], settings.temperature[row, 0])
    weights[weights < settings.min_p[row, 0]] = 0.0
    mass = np.zeros((count, int(place.max()) + 1), np.int64)
    mass[row, place] = masses(weights)
    return kept[first + pick(mass, bits)] % vocabulary
