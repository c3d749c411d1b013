"""Every row of logits that a token is drawn from, as a digest; the rows themselves are read and not changed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from brigade.engine.sampling import Sampler
from brigade.engine.sampling.masses import to_host
from brigade.engine.sampling.row import SampleRow
from brigade.engine.sampling.sampler import Sampled

LENGTH = 16  # hexadecimal digits: 64 bits tell any two rows of a run apart


def digest(logits_V: np.ndarray) -> str:
    """Of the bits of a float32 row, in the order of the vocabulary."""
    return hashlib.sha256(np.ascontiguousarray(logits_V, "<f4")).hexdigest()[:LENGTH]


class DigestingSampler(Sampler):
    """Keyed by request, sample and position, so neither order nor company shows. Being no plain `Sampler`, it is given whole rows
    where plain greedy ones would come as their greatest logit alone."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[tuple[str, int, int], str] = {}

    def sample(self, logits_RV: Tensor, rows: Sequence[SampleRow]) -> list[Sampled]:
        for logits_V, row in zip(to_host(logits_RV), rows, strict=True):
            self.seen[row.request_id, row.index, row.position] = digest(logits_V)
        return super().sample(logits_RV, rows)
