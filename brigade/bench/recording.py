"""A sampler that keeps what it saw, for whoever compares logits under load."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from brigade.engine.sampling import Sampler
from brigade.engine.sampling.row import SampleRow
from brigade.engine.sampling.sampler import Sampled


class RecordingSampler(Sampler):
    """Keeps the logits that each token was drawn from, by request and position."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[tuple[str, int], Tensor] = {}

    def sample(self, logits_RV: Tensor, rows: Sequence[SampleRow]) -> list[Sampled]:
        for logits_V, row in zip(logits_RV, rows, strict=True):
            self.seen[row.request_id, row.position] = logits_V.clone()
        return super().sample(logits_RV, rows)

    def of(self, request_id: str) -> Tensor:
        return torch.stack([self.seen[key] for key in sorted(self.seen) if key[0] == request_id])
