"""What changes a row of logits before temperature, in this order: repetition, frequency and presence penalties, bias, a
least length, registered parameters, and a constraint, which has the last word."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from brigade.engine.sampling.extra import process_extra
from brigade.engine.sampling.history import History
from brigade.engine.sampling.row import SampleRow


def edit_logits(logits_V: Tensor, row: SampleRow) -> Tensor:
    """A changed copy of one row."""
    edited = logits_V.detach().to("cpu", torch.float32, copy=True)
    history = History(row)
    history.catch_up()
    edit_in_place(edited.numpy(), row, history)
    return edited.to(logits_V.device)


def edit_in_place(logits: np.ndarray, row: SampleRow, history: History | None) -> None:
    """The work grows with the request's own tokens, not with the vocabulary. `history` is that of a penalised row."""
    params = row.params
    if params.is_penalised:
        assert history is not None
        _penalise(logits, row, history)
    if params.logit_bias:
        inside = {token: bias for token, bias in params.logit_bias.items() if token < len(logits)}
        logits[list(inside)] += np.fromiter(inside.values(), np.float32, len(inside))
    if len(row.output_token_ids) < params.min_tokens:
        # Whatever would end the request by itself; under ignore_eos the end of text does not.
        ending = params.stop_token_ids if params.ignore_eos else (*row.eos_ids, *params.stop_token_ids)
        logits[[token for token in ending if token < len(logits)]] = -np.inf
    if params.extra:
        logits[:] = process_extra(torch.from_numpy(logits), row).detach().cpu().numpy()
    if params.constraint is not None:
        assert row.matcher is not None
        if math.isfinite(logits.max()):  # what is no number is told, also where it is forbidden
            row.matcher.hold(logits, (*row.eos_ids, *params.stop_token_ids))


def _penalise(logits: np.ndarray, row: SampleRow, history: History) -> None:
    params, ids = row.params, history.ids
    found = logits[ids]
    if params.repetition_penalty != 1.0:
        # Every id of prompt or output: divide what is positive, multiply what is negative.
        penalty = np.float32(params.repetition_penalty)
        found = np.where(found > 0, found / penalty, found * penalty)
    if params.frequency_penalty or params.presence_penalty:
        counts = history.counts
        found -= np.float32(params.frequency_penalty) * counts
        found -= np.float32(params.presence_penalty) * (counts > 0)
    logits[ids] = found
