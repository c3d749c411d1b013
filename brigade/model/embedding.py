"""Ids to vectors: the word table, and the position table or the scale some families add."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from brigade.backends.base import Backend, Step
from brigade.config import ModelConfig
from brigade.mesh import Cut, Part, vocabulary_borders
from brigade.model.cut_module import CutModule


class Embedding(CutModule):
    """The word table may be split over ranks: each looks up the ids of its own rows, and every row is taken from the rank that
    has it. A last stage whose head is tied holds its share of the word table and looks nothing up."""

    def __init__(
        self, config: ModelConfig, backend: Backend, project: nn.Module | None = None, part: Part | None = None
    ) -> None:  # fmt: skip
        super().__init__()
        part = Part.whole(config) if part is None else part
        self.backend, self.scale, self.offset = backend, config.embedding_scale, config.position_offset
        self.first, last = part.vocabulary(config.vocab_size)
        self.borders = vocabulary_borders(config.vocab_size, part.tp)[1:-1]
        self.cuts = {} if part.tp == 1 else {"word": Cut(-2, ((self.first, last),))}
        self.word = nn.Parameter(torch.empty(last - self.first, config.embedding_size or config.hidden_size))
        learned = config.position == "learned" and part.is_first
        self.position = (
            nn.Parameter(torch.empty(config.max_positions + config.position_offset, config.hidden_size)) if learned else None
        )
        self.project = project

    def forward(self, step: Step) -> Tensor:
        x_TH = self._words(step.token_ids_T)
        if self.scale is not None:
            x_TH = x_TH * self.scale
        if self.project is not None:
            x_TH = self.project(x_TH)
        if self.position is not None:
            places_T = step.positions_T + self.offset if self.offset else step.positions_T
            x_TH = self.backend.embed(places_T, self.position, x_TH)
        return x_TH

    def _words(self, ids_T: Tensor) -> Tensor:
        if not self.borders:
            return self.backend.embed(ids_T, self.word)
        owners_T = torch.bucketize(ids_T, torch.tensor(self.borders, device=ids_T.device), right=True)
        own_T = (ids_T - self.first).clamp(0, self.word.shape[0] - 1)  # another rank's ids: any row, which nobody reads
        return self.backend.exchange.choose(self.backend.embed(own_T, self.word), owners_T)
