"""Last-token logits to ids: a token is a function of its logits, its request's parameters, seed and position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from brigade.engine.sampling.filters import Settings, kept_weights
from brigade.engine.sampling.logprobs import TokenLogprobs, token_logprobs
from brigade.engine.sampling.processors import edit_logits
from brigade.engine.sampling.rng import uniform
from brigade.engine.sampling.row import SampleRow


@dataclass(frozen=True, slots=True)
class Sampled:
    token_id: int
    logprobs: TokenLogprobs | None


class SamplingRule(Protocol):
    """A door: how ids are drawn from the weights of the tokens that are still possible."""

    def choose(self, weights_RV: Tensor, rows: Sequence[SampleRow]) -> list[int]:
        """Weights are unnormalised, 0 where a token may not be chosen."""


class InverseCDF:
    """One uniform number of (seed, position) against the running sum of the weights in order of id."""

    def choose(self, weights_RV: Tensor, rows: Sequence[SampleRow]) -> list[int]:
        running = weights_RV.cumsum(dim=-1)
        draws = torch.tensor([uniform(row.seed, row.position) for row in rows], device=running.device)
        target = draws.to(running.dtype).unsqueeze(1) * running[:, -1:]
        # The first token whose running sum exceeds the target; a weight of zero never moves the sum, so is never first.
        found = torch.searchsorted(running, target, right=True)
        last = (weights_RV > 0).to(torch.int8).flip(-1).argmax(-1, keepdim=True)
        return torch.minimum(found, weights_RV.shape[-1] - 1 - last).squeeze(1).tolist()


class Sampler:
    def __init__(self, rule: SamplingRule | None = None) -> None:
        self.rule = rule or InverseCDF()

    def sample(self, logits_RV: Tensor, rows: Sequence[SampleRow]) -> list[Sampled]:
        """`logits_RV` in fp32, one row a request."""
        edited_RV = self._edit(logits_RV, rows)
        drawn = [i for i, row in enumerate(rows) if row.params.temperature > 0]
        tokens = self._greedy(edited_RV, rows)
        if drawn:
            chosen_rows = [rows[i] for i in drawn]
            chosen = edited_RV if len(drawn) == len(rows) else edited_RV[drawn]
            weights = kept_weights(chosen, Settings.of(chosen_rows, chosen.device))
            for i, token in zip(drawn, self.rule.choose(weights, chosen_rows), strict=True):
                tokens[i] = token
        return self._with_logprobs(logits_RV, tokens, rows)

    @staticmethod
    def _edit(logits_RV: Tensor, rows: Sequence[SampleRow]) -> Tensor:
        changed = [i for i, row in enumerate(rows) if row.params.edits_logits]
        if not changed:
            return logits_RV
        edited = logits_RV.clone()
        for i in changed:
            edited[i] = edit_logits(logits_RV[i], rows[i])
        return edited

    @staticmethod
    def _greedy(logits_RV: Tensor, rows: Sequence[SampleRow]) -> list[int]:
        """The first of the largest logits, for every row; also where a network's numbers have gone bad is found here."""
        values, tokens = logits_RV.max(dim=-1)
        bad = ~torch.isfinite(values)
        if bool(bad.any()):
            where = [rows[i].position for i in torch.nonzero(bad).squeeze(1).tolist()]
            raise FloatingPointError(f"the model's logits are not finite at position {where}; its weights or inputs are broken")
        return tokens.tolist()

    @staticmethod
    def _with_logprobs(logits_RV: Tensor, tokens: list[int], rows: Sequence[SampleRow]) -> list[Sampled]:
        result = [Sampled(token, None) for token in tokens]
        by_count: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            if row.params.logprobs is not None:
                by_count.setdefault(row.params.logprobs, []).append(i)
        for count, places in by_count.items():
            found = token_logprobs(logits_RV[places], [tokens[i] for i in places], count)
            for i, logprobs in zip(places, found, strict=True):
                result[i] = Sampled(tokens[i], logprobs)
        return result
