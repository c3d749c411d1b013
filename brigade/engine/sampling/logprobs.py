"""Log-probabilities: the raw log-softmax in fp32, before penalties and temperature.

The softmax's sum is one of integers (see `masses`), so neither rows nor shards of the vocabulary nor threads can show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from brigade.engine.sampling.masses import MASS_BITS, to_host, total_masses


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """One token's log-probability, its rank (1 is the most likely; of equals the lower id comes first), and the most
    likely tokens at its place, in the same order."""

    token_id: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...]


def log_softmax(logits_RV: Tensor) -> Tensor:
    logits = to_host(logits_RV)
    greatest = logits.max(axis=1, keepdims=True)
    return torch.from_numpy(logits - greatest - _log_sums(logits, greatest)).to(logits_RV.device)


def token_logprobs(logits_RV: Tensor, token_ids: Sequence[int], top: int) -> list[TokenLogprobs]:
    """For each row: the given token, and the `top` most likely."""
    if not len(token_ids):
        return []
    logits = to_host(logits_RV)
    rows, tokens = np.arange(len(logits)), np.asarray(token_ids, np.int64)
    greatest = logits.max(axis=1, keepdims=True)
    log_sums = _log_sums(logits, greatest)
    own = logits[rows, tokens][:, None]
    values = (own - greatest - log_sums)[:, 0].tolist()
    ranks = _ranks(logits, own, tokens).tolist()
    tops = _tops(logits, greatest, log_sums, min(top, logits.shape[1])) if top else [()] * len(logits)
    return [TokenLogprobs(*found) for found in zip(tokens.tolist(), values, ranks, tops, strict=True)]


def _log_sums(logits: np.ndarray, greatest: np.ndarray) -> np.ndarray:
    """log(sum(exp(logits - greatest))), [R, 1] in fp32; a logarithm a row, by the scalar function."""
    totals = total_masses(logits, greatest).tolist()
    return np.array([[math.log(math.ldexp(total, -MASS_BITS))] for total in totals], np.float32)


def _ranks(logits: np.ndarray, own: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    ranks = np.count_nonzero(logits > own, axis=1) + 1
    for i in np.flatnonzero(np.count_nonzero(logits == own, axis=1) > 1):
        ranks[i] += np.count_nonzero(logits[i, : tokens[i]] == own[i])
    return ranks


def _tops(logits: np.ndarray, greatest: np.ndarray, log_sums: np.ndarray, count: int) -> list[tuple[tuple[int, float], ...]]:
    """The `count` largest of each row, of equal ones the lower id first."""
    least = np.partition(logits, logits.shape[1] - count, axis=1)[:, logits.shape[1] - count]
    found = []
    for i, row in enumerate(logits):
        ids = np.flatnonzero(row >= least[i])  # ascending, so that a stable sort keeps lower ids first
        ids = ids[np.argsort(-row[ids], kind="stable")[:count]]
        values = row[ids] - greatest[i] - log_sums[i]
        found.append(tuple(zip(ids.tolist(), values.tolist(), strict=True)))
    return found
