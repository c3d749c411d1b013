"""Inverse CDF: one uniform number of (seed, position) against the running sum of the masses in order of id.

The token is the first whose running sum exceeds floor(u * total), u a multiple of 2**-53. All of it is integer arithmetic, so
it does not matter that the sum is taken in blocks, or over the kept tokens only: what is left out has no mass.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from brigade.engine.sampling.filters import Settings, thresholds
from brigade.engine.sampling.masses import MOST_TOKENS, groups, masses, weigh
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
    targets = _targets(ends[:, -1], bits)
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
    """The same over the kept tokens alone: all rows' masses in one line, one running sum, one search in it."""
    count, vocabulary = logits.shape
    kept = np.flatnonzero(logits >= least[:, None])
    if kept.size >= MOST_TOKENS:  # their sum might not fit into 63 bits
        assert count > 1, f"{kept.size} tokens kept of a row of {vocabulary}"
        halves = (slice(0, count // 2), slice(count // 2, count))
        return np.concatenate([_draw_kept(logits[h], greatest[h], least[h], settings.take(h), bits[h]) for h in halves])
    starts = np.searchsorted(kept, np.arange(count) * vocabulary)  # every row keeps its greatest logit
    sizes = np.diff(starts, append=kept.size)
    weights = weigh(logits.reshape(-1)[kept], np.repeat(greatest[:, 0], sizes), np.repeat(settings.temperature[:, 0], sizes))
    if settings.min_p.any():
        weights[weights < np.repeat(settings.min_p[:, 0], sizes)] = 0.0
    sums = np.zeros(kept.size + 1, np.int64)
    np.cumsum(masses(weights), out=sums[1:])
    before = sums[starts]
    targets = before + _targets(np.diff(before, append=sums[-1]), bits)
    return kept[np.searchsorted(sums[1:], targets, side="right")] % vocabulary


def _targets(totals: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """floor(u * total), in Python's integers, because a product of 53 and 63 bits has to be exact."""
    return np.array([(b * total) >> UNIFORM_BITS for b, total in zip(bits.tolist(), totals.tolist(), strict=True)], np.int64)
