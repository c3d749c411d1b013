"""How far a model is from a reference, over the same positions of a text.

P is the reference, Q the model. KL(P || Q) = sum over the vocabulary of p (ln p - ln q), in nats: what it costs to take Q for P.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from brigade.errors import RequestError
from brigade.evaluate.score import ROWS, Logits, Progress, Score, log_probabilities, nats_of
from brigade.evaluate.windows import Window

DIRECTION = "KL(P || Q), P the reference, Q the model"


@dataclass(frozen=True)
class Divergence:
    """Both models' scores, and the distance between their distributions."""

    model: Score
    reference: Score
    mean_kl: float
    max_kl: float
    max_kl_token: int  # the place in the text of the token whose prediction differs most
    same_top: float  # the share of positions whose most likely token is the same


def kl_rows(p_RV: Tensor, q_RV: Tensor) -> Tensor:
    """KL(P || Q) of each row of log-probabilities. What P never says costs nothing, whatever Q thinks of it."""
    return torch.where(p_RV.isneginf(), 0.0, p_RV.exp() * (p_RV - q_RV)).sum(dim=-1)


def compare(
    model: Logits, reference: Logits, ids: Sequence[int], windows: Sequence[Window], progress: Progress | None = None
) -> Divergence:
    """One pass over the text, one window's logits of each model at a time."""
    tokens, nats_q, nats_p, total, greatest, place, same = 0, 0.0, 0.0, 0.0, 0.0, windows[0].first, 0
    for done, window in enumerate(windows):
        targets, inputs = window.targets(ids), window.inputs(ids)
        p_LV, q_LV = reference(inputs)[window.row :], model(inputs)[window.row :]
        if p_LV.shape != q_LV.shape:
            raise RequestError(
                f"the models have vocabularies of {q_LV.shape[1]} and {p_LV.shape[1]}; their distributions cannot be compared"
            )
        for low in range(0, len(targets), ROWS):
            some, first = targets[low : low + ROWS], window.first + low
            p_RV = log_probabilities(p_LV[low : low + len(some)], first)
            q_RV = log_probabilities(q_LV[low : low + len(some)].to(p_LV.device), first)
            nats_p, nats_q = nats_p + nats_of(p_RV, some), nats_q + nats_of(q_RV, some)
            kl_R = kl_rows(p_RV, q_RV)
            total += float(kl_R.sum())
            if float(kl_R.max()) > greatest:
                greatest, place = float(kl_R.max()), first + int(kl_R.argmax())
            same += int((p_RV.argmax(dim=-1) == q_RV.argmax(dim=-1)).sum())
        tokens += len(targets)
        del p_LV, q_LV  # before the next window's logits come
        if progress is not None:
            progress(done + 1, len(windows))
    return Divergence(Score(tokens, nats_q), Score(tokens, nats_p), total / tokens, greatest, place, same / tokens)
