"""Log-probabilities: the raw log-softmax in fp32, before penalties and temperature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from brigade.backends.exact_math import halving_sum


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """One token's log-probability, its rank (1 is the most likely), and the most likely tokens at its place."""

    token_id: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...]


def log_softmax(logits_RV: Tensor) -> Tensor:
    """The sum runs as a fixed tree over the whole vocabulary, so neither rows nor shards of it can show."""
    logits_RV = logits_RV.float()
    shifted = logits_RV - logits_RV.amax(dim=-1, keepdim=True)
    return shifted - torch.log(halving_sum(torch.exp(shifted)))


def token_logprobs(logits_RV: Tensor, token_ids: Sequence[int], top: int) -> list[TokenLogprobs]:
    if not len(token_ids):
        return []
    logprobs = log_softmax(logits_RV)
    tokens = torch.tensor(list(token_ids), device=logits_RV.device).unsqueeze(1)
    chosen = logprobs.gather(1, tokens)
    ranks = ((logprobs > chosen).sum(dim=-1) + 1).tolist()
    tops = [_top(row, top) for row in logprobs] if top else [()] * len(ranks)
    return [
        TokenLogprobs(token, value, rank, best)
        for token, value, rank, best in zip(token_ids, chosen.squeeze(1).tolist(), ranks, tops, strict=True)
    ]


def _top(logprobs_V: Tensor, count: int) -> tuple[tuple[int, float], ...]:
    """The `count` largest; of equal ones the lower id first, which a library's top-k does not promise."""
    count = min(count, logprobs_V.shape[0])
    threshold = torch.topk(logprobs_V, count).values[-1]
    ids = torch.nonzero(logprobs_V >= threshold).squeeze(1)
    values = logprobs_V[ids]
    order = torch.sort(values, descending=True, stable=True).indices[:count]
    return tuple(zip(ids[order].tolist(), values[order].tolist(), strict=True))
