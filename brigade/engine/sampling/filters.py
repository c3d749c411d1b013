"""Which tokens stay possible: top-k, then top-p, then min-p, on logits after penalties, with temperature applied.

Each rule keeps a *set*: every token at or above a threshold value. So equal logits stay or go together, and the order in
which a sort leaves them cannot show. top-p is taken over what top-k kept; min-p is relative to the most likely token, so it
keeps the same tokens wherever it stands. This is the order of transformers' warpers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from brigade.engine.sampling.masses import groups, masses, to_host, total_masses, weigh
from brigade.engine.sampling.row import SampleRow

LAYERS = 8
CANDIDATES = 256  # most likely tokens that are tried before the whole vocabulary is sorted


@dataclass(frozen=True, slots=True)
class Settings:
    """The rows' numbers as columns; `device` is where a rule of one's own gets its weights."""

    temperature: np.ndarray  # [R, 1] float32
    top_k: np.ndarray  # [R], 0 is off
    top_p: np.ndarray  # [R] float64, 1 is off
    min_p: np.ndarray  # [R, 1] float32, 0 is off
    device: torch.device

    @classmethod
    def of(cls, rows: Sequence[SampleRow], device: torch.device) -> Settings:
        params = [row.params for row in rows]
        return cls(
            np.array([[p.temperature] for p in params], np.float32),
            np.array([min(p.top_k, 2**31) for p in params], np.int64),
            np.array([p.top_p for p in params], np.float64),
            np.array([[p.min_p] for p in params], np.float32),
            device,
        )

    def take(self, rows: np.ndarray | slice) -> Settings:
        return Settings(self.temperature[rows], self.top_k[rows], self.top_p[rows], self.min_p[rows], self.device)

    def limited(self, vocabulary: int) -> np.ndarray:
        """Rows where top-k or top-p is on."""
        return ((self.top_k > 0) & (self.top_k < vocabulary)) | (self.top_p < 1.0)


def kept_weights(logits_RV: Tensor, settings: Settings) -> Tensor:
    """Unnormalised probabilities [R, V], 0 where a token may not be chosen; the most likely token weighs 1."""
    logits = to_host(logits_RV)
    greatest = logits.max(axis=1, keepdims=True)
    weights = weigh(logits, greatest, settings.temperature)
    weights[(logits < thresholds(logits, greatest, settings)[:, None]) | (weights < settings.min_p)] = 0.0
    return torch.from_numpy(weights).to(settings.device)


def thresholds(logits: np.ndarray, greatest: np.ndarray, settings: Settings) -> np.ndarray:
    """The least logit [R] that top-k and top-p keep, minus infinity where both are off.

    Looks among the few most likely tokens first. Where they cannot tell, the row's whole vocabulary is sorted; masses
    are integers, so both ways find the same value.
    """
    count, vocabulary = logits.shape
    found = np.full(count, -np.inf, np.float32)
    open_rows = np.flatnonzero(settings.limited(vocabulary))
    for width in (CANDIDATES, vocabulary) if vocabulary > 2 * CANDIDATES else (vocabulary,):
        tried, undecided = open_rows, []
        # A narrow search is cheap and is done for all rows at once; a wide one in groups that fit the cache.
        for some in groups(tried.size, vocabulary) if width == vocabulary else (slice(None),):
            rows = tried[some]
            if rows.size == count:  # nothing to copy
                values, sure = _search(logits, greatest, settings, width)
            else:
                values, sure = _search(logits[rows], greatest[rows], settings.take(rows), width)
            found[rows] = values
            undecided.append(rows[~sure])
        open_rows = np.concatenate(undecided) if undecided else open_rows[:0]
    return found


def greatest_of(logits: np.ndarray, width: int) -> np.ndarray:
    """The `width` greatest of each row [R, width], falling. A row is cut into 8 parts, laid over each other: `width` of its logits
    or more reach the `width`-th of the greatest of each column, and few more do. Selecting among all takes some processors twice as
    long."""
    count, vocabulary = logits.shape
    if not count or vocabulary // LAYERS < width:
        return np.ascontiguousarray(np.sort(logits, axis=1)[:, : -width - 1 : -1])
    tops = logits[:, : vocabulary // LAYERS * LAYERS].reshape(count, LAYERS, -1).max(axis=1)
    least = np.sort(tops, axis=1)[:, -width]
    found = np.flatnonzero(logits >= least[:, None])
    starts = np.searchsorted(found, np.arange(count) * vocabulary)
    sizes = np.diff(starts, append=found.size)
    best = np.full((count, sizes.max()), -np.inf, np.float32)
    owners = np.repeat(np.arange(count), sizes)
    best[owners, np.arange(found.size) - starts[owners]] = logits.reshape(-1)[found]
    best.sort(axis=1)
    return np.ascontiguousarray(best[:, : -width - 1 : -1])


def _search(logits: np.ndarray, greatest: np.ndarray, settings: Settings, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds from the `width` most likely tokens of each row, and which of them can be relied on."""
    count, vocabulary = logits.shape
    rows = np.arange(count)
    best = np.ascontiguousarray(np.sort(logits, axis=1)[:, ::-1]) if width == vocabulary else greatest_of(logits, width)
    has_k = (settings.top_k > 0) & (settings.top_k < vocabulary)
    has_p = settings.top_p < 1.0
    values = np.where(has_k, best[rows, np.clip(settings.top_k, 1, width) - 1], np.float32(-np.inf))
    sure = ~has_k | (settings.top_k <= width)
    if has_p.any():
        mass = masses(weigh(best, greatest, settings.temperature))
        if has_k.any():
            mass[best < values[:, None]] = 0
        totals = mass.sum(axis=1)
        if width < vocabulary:
            # With top-k, the total is known if no equal of the k-th token is left outside; without, every token counts.
            sure &= ~(has_k & has_p) | (best[:, -1] < values)
            free = np.flatnonzero(has_p & ~has_k)
            if free.size == count:
                totals = total_masses(logits, greatest, settings.temperature)
            elif free.size:
                totals[free] = total_masses(logits[free], greatest[free], settings.temperature[free])
        reached = np.cumsum(mass, axis=1) >= (settings.top_p * totals)[:, None]
        sure &= ~has_p | reached[:, -1]
        values = np.where(has_p, best[rows, reached.argmax(axis=1)], values)
    return values, sure
