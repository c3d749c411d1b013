"""A rank's part of a step: rows come in from the stage before, or from the word table; they go on to the next, or become logits.

Every rank of a stage has all rows, whole, before and after each layer. So rank t of a stage hands its rows to rank t of the next
one, and only the logits, cut over the vocabulary, are gathered: to the first rank of the last stage.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from brigade.backends.kv_cache import KVCache
from brigade.backends.sums import TensorSum
from brigade.batch import Batch, Wanted
from brigade.mesh import vocabulary_borders
from brigade.model.gpt_model import GPTModel
from brigade.parallel.links import Links
from brigade.parallel.messages import Times

Best = Sequence[tuple[float, int]]


class Stage:
    def __init__(self, model: GPTModel, links: Links) -> None:
        self.model, self.links = model, links
        self._seconds, self._since = dict(links.seconds), time.perf_counter()
        borders = vocabulary_borders(model.config.vocab_size, model.held.tp)
        self._widths = [last - first for first, last in pairwise(borders)]
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

    def _rows_before(self, count: int) -> Tensor:
        return self.links.receive_rows(count, self.model.config.hidden_size).to(self.model.backend.device)

    def times(self) -> Times:
        """Since the last call."""
        now, seconds = time.perf_counter(), dict(self.links.seconds)
        passed = {what: value - self._seconds[what] for what, value in seconds.items()}
        elapsed, self._since, self._seconds = now - self._since, now, seconds
        return Times(elapsed, passed["rows"] + passed["orders"], passed["exchange"])

    def tensor_sums(self, dtype: torch.dtype) -> list[TensorSum]:
        """Whoever watches for a hang sees each tensor."""
        found = []
        for one in self.model.backend.tensor_sums(self.model, dtype):
            found.append(one)
            self.links.tick()
        return found

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
