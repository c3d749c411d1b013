"""Probabilities as integers, so that a sum of them has no order.

A token weighs exp((logit - greatest logit) / temperature), a number from 0 to 1. Cut to a multiple of 2**-44 it is an
integer, its *mass*. Integer addition is associative: a total or a running sum has the same bits however many rows,
threads or candidates took part, and no tree has to be walked for it. What a token loses is under 2**-44 of the most likely one.

This is numpy on the host, on purpose: on a step's few rows its reductions take a fraction of the time of torch's, use one thread
whatever the settings, and an element's result does not depend on where in an array it stands (the tests hold it to that).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

MASS_BITS = 44
MOST_TOKENS = 1 << (63 - MASS_BITS)  # a row's total has to fit into 63 bits
GROUP = 1 << 15  # numbers that are worked on at a time: they stay in the cache, and their memory is used again
_ONE = np.float32(2.0**MASS_BITS)


def to_host(logits_RV: Tensor) -> np.ndarray:
    """The same numbers in fp32, rows contiguous; shares memory where it can, so it is only to be read."""
    array = np.ascontiguousarray(logits_RV.detach().to("cpu", torch.float32).numpy())
    assert array.ndim == 2 and array.shape[1] < MOST_TOKENS, f"logits of shape {array.shape}: a row has under {MOST_TOKENS}"
    return array


def weigh(logits: np.ndarray, greatest: np.ndarray, temperature: np.ndarray | None = None) -> np.ndarray:
    """Unnormalised probabilities in fp32; never above 1, and 1 for the greatest logit."""
    weights = logits - greatest
    if temperature is not None:
        weights /= temperature
    return np.exp(weights, out=weights)


def masses(weights: np.ndarray) -> np.ndarray:
    """Weights as integers. Scaling by a power of two is exact, so only the cut to an integer loses anything."""
    return (weights * _ONE).astype(np.int64)


def groups(count: int, width: int) -> Iterator[slice]:
    """Rows that are worked on together. Every row is computed by itself, so the cut cannot show."""
    step = max(GROUP // width, 1)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def total_masses(logits: np.ndarray, greatest: np.ndarray, temperature: np.ndarray | None = None) -> np.ndarray:
    """The mass of each row's whole vocabulary."""
    totals = np.empty(len(logits), np.int64)
    for some in groups(*logits.shape):
        heat = None if temperature is None else temperature[some]
        totals[some] = masses(weigh(logits[some], greatest[some], heat)).sum(axis=1)
    return totals
