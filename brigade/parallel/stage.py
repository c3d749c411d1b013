"""A rank's part of a step: rows come in from the stage before, or from the word table; they go on to the next, or become logits.

Every rank of a stage has all rows, whole, before and after each layer. So rank t of a stage hands its rows to rank t of the next
one, and only the logits, cut over the vocabulary, are gathered: to the first rank of the last stage.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from brigade.backends.kv_cache import KVCache
from brigade.batch import Batch, Wanted
from brigade.mesh import vocabulary_border
from brigade.model.gpt_model import GPTModel
from brigade.parallel.messages import Times

Best = Sequence[tuple[float, int]]


class Clock:
    """How long a rank has waited for others, of all the time since the clock was started."""

    def __init__(self) -> None:
        self._begun, self._waited = time.perf_counter(), 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._waited += time.perf_counter() - begun

    def restart(self) -> tuple[float, float]:
        """Seconds in all, and seconds waited."""
        now = time.perf_counter()
        passed = now - self._begun, self._waited
        self._begun, self._waited = now, 0.0
        return passed


class Stage:
    """`links` are the ends of this rank's channels (`collectives.Links`)."""

    def __init__(self, model: GPTModel, links: Any) -> None:
        self.model, self.links, self.clock = model, links, Clock()
        vocabulary, tp = model.config.vocab_size, model.held.tp
        borders = [vocabulary_border(vocabulary, tp, rank) for rank in range(tp + 1)]
        self._widths = [last - first for first, last in zip(borders, borders[1:], strict=False)]
        self._first_id = borders[model.held.tp_rank]

    def run(self, batch: Batch, cache: KVCache) -> tuple[Tensor, Best] | None:
        """The answer on the leader; None everywhere else."""
        model, held = self.model, self.model.held
        with torch.inference_mode():
            step = model.backend.begin_step(batch, cache, model.windows)
            x_TH = model.embedding(step) if held.is_first else self._rows_before(batch.num_tokens)
            x_TH = model.through(x_TH, step, self.links.tick)
            if not held.is_last:
                self.links.send_rows(x_TH)
                return None
            return self._answer(model.logits(x_TH, step), batch)

    def times(self) -> Times:
        """Since the last call."""
        elapsed, waited = self.clock.restart()
        exchange = self.model.backend.exchange
        exchanged, exchange.seconds = exchange.seconds, 0.0
        return Times(elapsed, waited, exchanged)

    def _rows_before(self, count: int) -> Tensor:
        with self.clock.waiting():
            return self.links.receive_rows(count, self.model.config.hidden_size)

    def _answer(self, logits_RV: Tensor, batch: Batch) -> tuple[Tensor, Best] | None:
        kinds = [span.wanted for span in batch.spans for _ in span.rows]
        whole = [row for row, kind in enumerate(kinds) if kind is not Wanted.BEST]
        best = [row for row, kind in enumerate(kinds) if kind is Wanted.BEST]
        exchange, gathered = self.model.backend.exchange, None
        if whole or not best:
            rows_RV = logits_RV if not best else logits_RV[whole]
            gathered = exchange.gather(rows_RV.contiguous(), self._widths)
        pairs = None if not best else exchange.gather(self._pairs(logits_RV[best]), [2] * exchange.size)
        if exchange.rank != 0:
            return None
        if gathered is None:
            gathered = logits_RV.new_empty(0, self.model.config.vocab_size)
        return gathered, [] if pairs is None else best_of(pairs.cpu().numpy())

    def _pairs(self, logits_RV: Tensor) -> Tensor:
        """Each row's greatest logit here, and its id: as float32, which has every id of a vocabulary of up to 2^24."""
        rows = logits_RV.cpu().numpy()
        places = rows.argmax(axis=1)  # the lowest id of equal ones; a NaN before any number
        pairs = np.stack([rows[np.arange(len(rows)), places], (places + self._first_id).astype(np.float32)], axis=1)
        return torch.from_numpy(pairs).to(logits_RV.device)


def best_of(pairs_R2T: np.ndarray) -> list[tuple[float, int]]:
    """Of (value, id) pairs side by side, one a rank: the greatest, the lower id of equal ones, a NaN before any number."""
    values, ids = pairs_R2T[:, ::2], pairs_R2T[:, 1::2]
    ranks = values.argmax(axis=1)
    rows = np.arange(len(values))
    return [(float(value), int(token)) for value, token in zip(values[rows, ranks], ids[rows, ranks], strict=True)]
