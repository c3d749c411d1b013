"""A constraint has the last word on a row: what it forbids weighs nothing, and what it leaves is drawn as ever."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from brigade.engine.sampling import Sampler, SamplingParams
from brigade.engine.sampling.logprobs import token_logprobs
from brigade.engine.sampling.processors import edit_logits
from brigade.engine.sampling.sampler import LogitsError
from tests.engine.sampling.test_sampler import Row, logits

ALLOWED = [3, 7, 20]


class Some:
    """Allows a few ids."""

    def __init__(self) -> None:
        self.asked = 0

    def hold(self, logits: np.ndarray, ending) -> None:
        self.asked += 1
        kept = logits[ALLOWED]
        logits[:] = -np.inf
        logits[ALLOWED] = kept


@dataclass
class Held(Row):
    matcher: Some | None = None


def row(**given) -> Held:
    return Held(SamplingParams(**given, constraint={"regex": "a"}), seed=given.get("seed", 0), matcher=Some())


@pytest.mark.parametrize(
    "given", [{"temperature": 0.0}, {"temperature": 100.0}, {"top_k": 2}, {"top_p": 0.5}, {"logit_bias": {5: 100.0}}]
)
def test_only_what_is_allowed_is_chosen(given: dict) -> None:
    rows = [row(**given) for _ in range(40)]
    for place, one in enumerate(rows):
        one.position = place
    found = {sampled.token_id for sampled in Sampler().sample(logits(40, 64), rows)}
    assert found <= set(ALLOWED) and (len(found) > 1 or given == {"temperature": 0.0})


def test_it_comes_behind_the_other_edits() -> None:
    edited = edit_logits(torch.zeros(64), row(logit_bias={3: 2.0, 5: 90.0}, extra={}))
    assert edited[3] == 2.0 and edited[5] == -torch.inf and torch.isfinite(edited).sum() == len(ALLOWED)


def test_log_probabilities_are_of_the_row_before_it() -> None:
    matrix = logits(1, 64)
    (sampled,) = Sampler().sample(matrix, [row(temperature=0.0, logprobs=3)])
    assert sampled.logprobs == token_logprobs(matrix, [sampled.token_id], 3)[0]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_no_number_is_told_also_where_it_is_forbidden(value: float) -> None:
    matrix = torch.zeros(2, 64)
    matrix[1, 5] = value
    with pytest.raises(LogitsError) as refused:
        Sampler().sample(matrix, [row(), row()])
    assert refused.value.rows == (1,)


def test_rows_without_one_are_asked_nothing() -> None:
    held, free = row(), Row(SamplingParams(), seed=4)
    together = Sampler().sample(logits(2, 64), [held, free])
    assert held.matcher.asked == 1
    assert together[1] == Sampler().sample(logits(2, 64)[1:], [free])[0]
