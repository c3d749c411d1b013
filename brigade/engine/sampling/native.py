"""This room's kernels, where a compiler was: the same weights and ids, bit for bit, as numpy finds beside it by the definitions."""

from __future__ import annotations

import ctypes

import numpy as np
import torch
from torch import Tensor

from brigade.backends.cpu.library import find_kernels, kernels
from brigade.engine.sampling.settings import Settings

# `BrDraw` of csrc/brigade.h.
DRAW = np.dtype([("bits", "<u8"), ("top_p", "<f8"), ("top_k", "<i8"), ("temperature", "<f4"), ("min_p", "<f4")], align=True)


def is_there() -> bool:
    return find_kernels() is not None


def begin() -> None:
    """Load them where they are, so that a BRIGADE_PATH that is refused is refused before the first request. The draws of every
    backend use them."""
    if is_there():
        kernels()


def best_tokens(logits_RV: Tensor) -> list[int] | None:
    """The lowest id of each row's greatest logit; None where the kernels cannot read them, or one of these logits is not finite.
    Most steps ask for no more, so this makes no array."""
    if not is_there() or logits_RV.device.type != "cpu" or logits_RV.dtype != torch.float32 or not logits_RV.is_contiguous():
        return None
    rows, width = logits_RV.shape
    tokens, greatest = (ctypes.c_int64 * rows)(), (ctypes.c_float * rows)()
    return None if kernels().br_best(logits_RV.data_ptr(), rows, width, tokens, greatest) else list(tokens)


def weigh(logits: np.ndarray, greatest: np.ndarray, temperature: np.ndarray) -> np.ndarray:
    weights = np.empty_like(logits)
    _weigh(logits, greatest, temperature, weights.ctypes.data)
    return weights


def total_masses(logits: np.ndarray, greatest: np.ndarray) -> np.ndarray:
    return _weigh(logits, greatest, np.ones_like(greatest), None)


def draw(logits: np.ndarray, greatest: np.ndarray, settings: Settings, bits: np.ndarray) -> list[int]:
    """One id a row."""
    draws, tokens = np.empty(len(logits), DRAW), np.empty(len(logits), np.int64)
    draws["bits"], draws["top_p"], draws["top_k"] = bits, settings.top_p, settings.top_k
    draws["temperature"], draws["min_p"] = settings.temperature[:, 0], settings.min_p[:, 0]
    kernels().br_draw(*_shape(logits), _line(greatest).ctypes.data, draws.ctypes.data, tokens.ctypes.data)
    return tokens.tolist()


def _weigh(logits: np.ndarray, greatest: np.ndarray, temperature: np.ndarray, weights: int | None) -> np.ndarray:
    totals = np.empty(len(logits), np.int64)
    most, heat = _line(greatest), _line(temperature)
    kernels().br_weigh(*_shape(logits), most.ctypes.data, heat.ctypes.data, weights, totals.ctypes.data)
    return totals


def _shape(logits: np.ndarray) -> tuple[int, int, int]:
    assert logits.dtype == np.float32 and logits.flags.c_contiguous
    return logits.ctypes.data, *logits.shape


def _line(column: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(column, np.float32)
