"""What a model makes of a text: nats, perplexity and bits per byte; window by window, so that one window's logits are held."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from brigade.errors import RequestError
from brigade.evaluate.windows import Window

if TYPE_CHECKING:
    from torch import Tensor

Logits = Callable[[list[int]], "Tensor"]  # ids to float32 [length, vocabulary], as `LLM.logits` of one prompt
Progress = Callable[[int, int], None]
ROWS = 64  # taken to float64 at once: a whole window of a large vocabulary in it would be gigabytes


@dataclass(frozen=True)
class Score:
    """The log-likelihood of `tokens` tokens in nats."""

    tokens: int
    nats: float

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        # A broken model may need more than 709 nats a token, which no float can be the power of.
        return math.exp(self.nats_per_token) if self.nats_per_token < 709 else math.inf

    def bits_per_byte(self, num_bytes: int) -> float:
        return self.nats / math.log(2) / num_bytes


def logits_of(llm: object) -> Logits:
    return lambda ids: llm.logits([ids])[0]  # type: ignore[attr-defined]


def log_probabilities(logits_RV: Tensor, first: int) -> Tensor:
    """In float64, and refused where a row holds no distribution; `first` is the position of the first row's token."""
    logprobs_RV = torch.log_softmax(logits_RV.double(), dim=-1)
    bad = torch.nonzero(logprobs_RV.isnan().any(dim=-1))
    if len(bad):
        raise RequestError(f"the logits for token {first + int(bad[0])} of the text are not finite; the model's weights are broken")
    return logprobs_RV


def nats_of(logprobs_RV: Tensor, targets: Sequence[int]) -> float:
    chosen = torch.tensor(targets, device=logprobs_RV.device).unsqueeze(1)
    return -float(logprobs_RV.gather(1, chosen).sum())


def score_text(logits: Logits, ids: Sequence[int], windows: Sequence[Window], progress: Progress | None = None) -> Score:
    tokens, nats = 0, 0.0
    for done, window in enumerate(windows):
        targets = window.targets(ids)
        rows_LV = logits(window.inputs(ids))[window.row :]
        for low in range(0, len(targets), ROWS):
            some = targets[low : low + ROWS]
            nats += nats_of(log_probabilities(rows_LV[low : low + len(some)], window.first + low), some)
        tokens += len(targets)
        del rows_LV  # before the next window's logits come
        if progress is not None:
            progress(done + 1, len(windows))
    return Score(tokens, nats)
