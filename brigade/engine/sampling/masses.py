"""Probabilities as integers, so that a sum of them has no order.

A token weighs exp((logit - greatest logit) / temperature), a number from 0 to 1. Cut to a multiple of 2**-44 it is an
integer, its *mass*. Integer addition is associative: a total or a running sum has the same bits however many rows,
threads or candidates took part, and no tree has to be walked for it. What a token loses is under 2**-44 of the most likely one.

This happens on the host, on purpose. The exponential is made of single IEEE operations, so numpy and the kernels, whatever
instructions they use, find the same bits: a token drawn does not depend on the processor.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from brigade.engine.sampling import native

MASS_BITS = 44
MOST_TOKENS = 1 << (63 - MASS_BITS)  # a row's total has to fit into 63 bits
_ONE = np.float32(2.0**MASS_BITS)
_LEAST = np.float32(-87.3)  # e^x below this is taken for 0
_POLYNOMIAL = [1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1]


def to_host(logits_RV: Tensor) -> np.ndarray:
    """The same numbers in fp32, rows contiguous; shares memory where it can, so it is only to be read."""
    if logits_RV.device.type != "cpu" or logits_RV.dtype != torch.float32:
        logits_RV = logits_RV.to("cpu", torch.float32)
    array = np.ascontiguousarray(logits_RV.detach().numpy())
    assert array.ndim == 2 and array.shape[1] < MOST_TOKENS, f"logits of shape {array.shape}: a row has under {MOST_TOKENS}"
    return array


def weigh(logits: np.ndarray, greatest: np.ndarray, temperature: np.ndarray | None = None) -> np.ndarray:
    """Unnormalised probabilities [R, V] in fp32; never above 1, and 1 for the greatest logit."""
    heat = np.ones_like(greatest) if temperature is None else temperature
    if native.is_there():
        return native.weigh(logits, greatest, heat)
    return exponential((logits - greatest) / heat)


def masses(weights: np.ndarray) -> np.ndarray:
    """Weights as integers. Scaling by a power of two is exact, so only the cut to an integer loses anything."""
    return (weights * _ONE).astype(np.int64)


def total_masses(logits: np.ndarray, greatest: np.ndarray) -> np.ndarray:
    """The mass of each row's whole vocabulary, at temperature 1."""
    if native.is_there():
        return native.total_masses(logits, greatest)
    return masses(weigh(logits, greatest)).sum(axis=1)


def exponential(x: np.ndarray) -> np.ndarray:
    """e^x for x of 0 or less, step by step as in the kernels' `exp_unfused`."""
    f = np.float32
    clipped = np.maximum(x, _LEAST)
    n = np.rint(clipped * f(1.44269504))
    r = clipped - n * f(0.693359375) + n * f(2.12194440e-4)
    p = f(_POLYNOMIAL[0])
    for coefficient in _POLYNOMIAL[1:]:
        p = p * r + f(coefficient)
    p = r * r * p + r + f(1)
    power = ((n.astype(np.int32) + 127) << 23).view(np.float32)
    return np.where(x < _LEAST, f(0), p * power)
