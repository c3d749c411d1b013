"""What changes a row of logits before temperature: penalties, bias, a least length, and registered parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from brigade.engine.sampling.registry import process_extra
from brigade.engine.sampling.row import SampleRow


def edit_logits(logits_V: Tensor, row: SampleRow) -> Tensor:
    """A changed copy of one row. The work grows with the request's own tokens, not with the vocabulary."""
    params = row.params
    logits_V = logits_V.clone()
    if params.repetition_penalty != 1.0:
        _repetition(logits_V, row, params.repetition_penalty)
    if (params.presence_penalty or params.frequency_penalty) and row.output_token_ids:
        said, counts = torch.unique(_ids(row.output_token_ids, logits_V), return_counts=True)
        logits_V[said] -= params.frequency_penalty * counts + params.presence_penalty
    for token, bias in params.logit_bias.items():
        if token < logits_V.shape[0]:
            logits_V[token] += bias
    if len(row.output_token_ids) < params.min_tokens:
        banned = [i for i in {*row.eos_ids, *params.stop_token_ids} if i < logits_V.shape[0]]
        logits_V[banned] = float("-inf")
    return process_extra(logits_V, row)


def _ids(ids, logits_V: Tensor) -> Tensor:
    return torch.tensor(ids, dtype=torch.int64, device=logits_V.device)


def _repetition(logits_V: Tensor, row: SampleRow, penalty: float) -> None:
    """Every id seen in prompt or output: divide what is positive, multiply what is negative."""
    seen = _ids(list({*row.prompt_token_ids, *row.output_token_ids}), logits_V)
    found = logits_V[seen]
    logits_V[seen] = torch.where(found > 0, found / penalty, found * penalty)
