"""Last-token logits to ids: a token is a function of its logits, its request's parameters, own ids, seed and position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from brigade.engine.sampling import native
from brigade.engine.sampling.draw import draw, pick, uniform_bits
from brigade.engine.sampling.filters import kept_weights
from brigade.engine.sampling.history import Histories
from brigade.engine.sampling.logprobs import TokenLogprobs, token_logprobs
from brigade.engine.sampling.masses import masses, to_host
from brigade.engine.sampling.processors import edit_in_place
from brigade.engine.sampling.row import SampleRow
from brigade.engine.sampling.settings import Settings
from brigade.errors import UserError


@dataclass(frozen=True, slots=True)
class Sampled:
    token_id: int
    logprobs: TokenLogprobs | None


class LogitsError(UserError, FloatingPointError):
    """A row of logits holds what is no number. `rows` are the indices, within the call, of the requests it hit."""

    def __init__(self, rows: Sequence[int], positions: Sequence[int]) -> None:
        where = f"position{'s' * (len(positions) > 1)} {', '.join(map(str, positions))}"
        super().__init__(
            f"the logits for {where} are not finite; weights of the model, or a sampling parameter of your own, are broken"
        )
        self.rows = tuple(rows)


class SamplingRule(Protocol):
    """A door: how ids are drawn from the weights of the tokens that are still possible."""

    def choose(self, weights_RV: Tensor, rows: Sequence[SampleRow]) -> list[int]:
        """Weights are unnormalised, 0 where a token may not be chosen."""


class InverseCDF:
    """The default rule, for whoever has weights at hand. The sampler itself goes by `draw`, which finds the same ids."""

    def choose(self, weights_RV: Tensor, rows: Sequence[SampleRow]) -> list[int]:
        return pick(masses(to_host(weights_RV)), uniform_bits(rows))


class Sampler:
    """Greedy rows take the lowest id of the largest logits. The others are drawn by `rule`, or by inverse CDF."""

    def __init__(self, rule: SamplingRule | None = None) -> None:
        native.begin()
        self.rule = None if isinstance(rule, InverseCDF) else rule
        self._histories = Histories()

    def sample(self, logits_RV: Tensor, rows: Sequence[SampleRow]) -> list[Sampled]:
        """One row of logits a request; they are read and not changed."""
        if not rows:
            return []
        plain = native.best_tokens(logits_RV) if all(row.params.is_plain for row in rows) else None
        if plain is not None:
            return [Sampled(token, None) for token in plain]
        logits = self._edit(to_host(logits_RV), rows)
        best = logits.argmax(axis=1)  # finds a NaN before any number
        greatest = logits[np.arange(len(rows)), best][:, None]
        finite = np.isfinite(greatest[:, 0])
        if not finite.all():
            bad = np.flatnonzero(~finite).tolist()
            raise LogitsError(bad, [rows[i].position for i in bad])
        tokens = best.tolist()
        drawn = [i for i, row in enumerate(rows) if not row.params.is_greedy]
        if drawn:
            whole = len(drawn) == len(rows)
            part = (logits, greatest) if whole else (logits[drawn], greatest[drawn])
            for i, token in zip(drawn, self._draw(*part, [rows[i] for i in drawn], logits_RV.device), strict=True):
                tokens[i] = token
        return self._with_logprobs(logits_RV, tokens, rows)

    def _draw(self, logits: np.ndarray, greatest: np.ndarray, rows: Sequence[SampleRow], device: torch.device) -> list[int]:
        settings = Settings.of(rows, device)
        if self.rule is None:
            return draw(logits, greatest, settings, rows)
        return _checked(self.rule.choose(kept_weights(torch.from_numpy(logits), settings), rows), *logits.shape)

    def _edit(self, logits: np.ndarray, rows: Sequence[SampleRow]) -> np.ndarray:
        changed = [i for i, row in enumerate(rows) if row.params.edits_logits]
        if not changed:
            return logits
        logits = logits.copy()
        penalised = [i for i in changed if rows[i].params.is_penalised]
        histories = dict(zip(penalised, self._histories.of([rows[i] for i in penalised]), strict=True))
        for i in changed:
            edit_in_place(logits[i], rows[i], histories.get(i))
        return logits

    @staticmethod
    def _with_logprobs(logits_RV: Tensor, tokens: list[int], rows: Sequence[SampleRow]) -> list[Sampled]:
        result = [Sampled(token, None) for token in tokens]
        by_count: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            if row.params.logprobs is not None:
                by_count.setdefault(row.params.logprobs, []).append(i)
        for count, places in by_count.items():
            part = logits_RV if len(places) == len(rows) else logits_RV[places]
            for i, logprobs in zip(places, token_logprobs(part, [tokens[i] for i in places], count), strict=True):
                result[i] = Sampled(tokens[i], logprobs)
        return result


def _checked(tokens: Sequence[int], rows: int, vocabulary: int) -> list[int]:
    """What a rule of somebody's own returned: one id of the vocabulary for each row."""
    tokens = [int(token) for token in tokens]
    if len(tokens) != rows or not all(0 <= token < vocabulary for token in tokens):
        raise ValueError(f"the sampling rule chose {tokens} for {rows} rows; it must choose an id below {vocabulary} for each")
    return tokens
