"""What the rows of one call ask for, as columns of numbers. Both ways of drawing an id read them: numpy and the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from brigade.engine.sampling.row import SampleRow


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
