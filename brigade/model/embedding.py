"""Ids to vectors: the word table, and the position table or the scale some families add."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from brigade.backends.base import Backend, Step
from brigade.config import ModelConfig


class Embedding(nn.Module):
    def __init__(self, config: ModelConfig, backend: Backend, project: nn.Module | None = None) -> None:
        super().__init__()
        self.backend, self.scale, self.offset = backend, config.embedding_scale, config.position_offset
        self.word = nn.Parameter(torch.empty(config.vocab_size, config.embedding_size or config.hidden_size))
        learned = config.position == "learned"
        self.position = (
            nn.Parameter(torch.empty(config.max_positions + config.position_offset, config.hidden_size)) if learned else None
        )
        self.project = project

    def forward(self, step: Step) -> Tensor:
        x_TH = self.backend.embed(step.token_ids_T, self.word)
        if self.scale is not None:
            x_TH = x_TH * self.scale
        if self.project is not None:
            x_TH = self.project(x_TH)
        if self.position is not None:
            x_TH = self.backend.embed(step.positions_T + self.offset, self.position, x_TH)
        return x_TH
