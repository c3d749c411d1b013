"""Which tokens stay possible: top-k, then top-p, then min-p, on logits after penalties, with temperature applied.

Each rule keeps a *set*: every token at or above a threshold value. So equal logits stay or go together, and the order in
which a sort leaves them cannot show. top-p is taken over what top-k kept; min-p is relative to the most likely token, so it
keeps the same tokens wherever it stands. This is the order of transformers' warpers.

Here it is by the definitions, each row sorted whole. The sampler's usual way is the kernels' (`native.draw`), which find the same.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from brigade.engine.sampling.masses import masses, to_host, weigh
from brigade.engine.sampling.settings import Settings


def kept_weights(logits_RV: Tensor, settings: Settings) -> Tensor:
    """Unnormalised probabilities [R, V], 0 where a token may not be chosen; the most likely token weighs 1."""
    logits = to_host(logits_RV)
    greatest = logits.max(axis=1, keepdims=True)
    weights = weigh(logits, greatest, settings.temperature)
    weights[(logits < thresholds(logits, weights, settings)[:, None]) | (weights < settings.min_p)] = 0.0
    return torch.from_numpy(weights).to(settings.device)


def thresholds(logits: np.ndarray, weights: np.ndarray, settings: Settings) -> np.ndarray:
    """The least logit [R] that top-k and top-p keep, minus infinity where both are off."""
    least = np.full(len(logits), -np.inf, np.float32)
    has_k = (settings.top_k > 0) & (settings.top_k < logits.shape[1])
    for i in np.flatnonzero(has_k | (settings.top_p < 1.0)):
        order = np.argsort(-logits[i], kind="stable")
        falling, mass = logits[i, order], masses(weights[i, order])
        if has_k[i]:
            least[i] = falling[settings.top_k[i] - 1]
            mass[falling < least[i]] = 0
        if settings.top_p[i] < 1.0:
            reached = np.cumsum(mass) >= settings.top_p[i] * mass.sum()
            least[i] = falling[reached.argmax()]
    return least
