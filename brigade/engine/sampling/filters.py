"""Which tokens stay possible: top-k, top-p and min-p on logits that temperature has divided.

Each rule keeps a *set*: every token at or above a threshold value. So equal logits stay or go together, and the order in
which a sort leaves them cannot show. top-p is taken over what top-k kept; min-p over the most likely token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from brigade.backends.exact_math import halving_sum
from brigade.engine.sampling.row import SampleRow

CANDIDATES = 128  # most likely tokens that are tried for top-p before the whole vocabulary is sorted


@dataclass(frozen=True, slots=True)
class Settings:
    """The rows' numbers as columns."""

    temperature: Tensor
    top_k: list[int]
    top_p: Tensor
    min_p: Tensor
    any_top_k: bool
    any_top_p: bool
    any_min_p: bool

    @classmethod
    def of(cls, rows: list[SampleRow], device: torch.device) -> Settings:
        params = [row.params for row in rows]

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device).unsqueeze(1)

        top_p, min_p, top_k = [p.top_p for p in params], [p.min_p for p in params], [p.top_k for p in params]
        return cls(
            column([p.temperature for p in params]), top_k, column(top_p), column(min_p),
            any(top_k), any(p < 1.0 for p in top_p), any(p > 0.0 for p in min_p),
        )  # fmt: skip


def kept_weights(logits_RV: Tensor, settings: Settings) -> Tensor:
    """Unnormalised probabilities [R, V], 0 where a token may not be chosen; the most likely token weighs 1."""
    scaled = logits_RV / settings.temperature
    weights = torch.exp(scaled - scaled.amax(dim=-1, keepdim=True))
    if settings.any_top_k:
        weights = _keep_top_k(weights, settings.top_k)
    if settings.any_top_p:
        weights = _keep_top_p(weights, settings.top_p)
    if settings.any_min_p:
        weights = torch.where(weights >= settings.min_p, weights, 0.0)
    return weights


def _keep_top_k(weights: Tensor, top_k: list[int]) -> Tensor:
    vocabulary = weights.shape[-1]
    widths = [min(k, vocabulary) or vocabulary for k in top_k]
    limited = [w for w in widths if w < vocabulary]
    if not limited:
        return weights
    ordered = torch.topk(weights, max(limited), dim=-1).values
    places = torch.tensor([w - 1 if w < vocabulary else 0 for w in widths], device=weights.device).unsqueeze(1)
    threshold = ordered.gather(1, places)
    free = torch.tensor([w == vocabulary for w in widths], device=weights.device).unsqueeze(1)
    return torch.where((weights >= threshold) | free, weights, 0.0)


def _keep_top_p(weights: Tensor, top_p: Tensor) -> Tensor:
    """The fewest most likely tokens whose share reaches p, and all that equal the last of them."""
    target = halving_sum(weights) * top_p
    width = min(CANDIDATES, weights.shape[-1])
    ordered = torch.topk(weights, width, dim=-1).values
    share = ordered.cumsum(dim=-1)
    if width < weights.shape[-1] and bool((share[:, -1:] < target).any()):
        # A sum that runs along the row in order: its first entries are those of the short one.
        ordered = torch.sort(weights, dim=-1, descending=True).values
        share = ordered.cumsum(dim=-1)
    before = (share < target).sum(dim=-1, keepdim=True).clamp(max=ordered.shape[-1] - 1)
    threshold = torch.where(top_p < 1.0, ordered.gather(1, before), 0.0)
    return torch.where(weights >= threshold, weights, 0.0)
