"""Nothing about a row shows in another: the same bits alone and in company, on one thread and on two."""

from __future__ import annotations

import pytest
import torch

from brigade.engine.sampling import Sampler, SamplingParams
from brigade.engine.sampling.filters import kept_weights
from brigade.engine.sampling.logprobs import log_softmax, token_logprobs
from brigade.engine.sampling.sampler import InverseCDF
from brigade.engine.sampling.settings import Settings
from tests.engine.sampling.test_sampler import Row, logits

MIXED = [
    {"temperature": 0.0}, {"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.8}, {"top_p": 0.999, "temperature": 5.0},
    {"min_p": 0.1}, {"top_k": 300, "top_p": 0.9}, {"top_k": 40, "top_p": 0.95, "min_p": 0.01}, {"top_k": 600},
]  # fmt: skip


def mixed_rows(count: int) -> list[Row]:
    return [Row(SamplingParams(**MIXED[i % len(MIXED)]), seed=i * 7919, position=i) for i in range(count)]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("vocab", [1, 13, 641, 4099])
def test_weights_and_logprobs_of_a_row_alone_are_bit_equal_to_those_in_a_batch(threads: int, vocab: int) -> None:
    torch.set_num_threads(threads)
    matrix, rows = logits(33, vocab), mixed_rows(33)
    for row in rows:
        row.params = SamplingParams(temperature=0.9) if row.params.is_greedy else row.params
    device = matrix.device
    alone = [kept_weights(matrix[i : i + 1].clone(), Settings.of([rows[i]], device)) for i in range(33)]
    alone_logprobs = [log_softmax(matrix[i : i + 1].clone()) for i in range(33)]
    for count in range(2, 34):
        assert torch.equal(kept_weights(matrix[:count], Settings.of(rows[:count], device)), torch.cat(alone[:count]))
        assert torch.equal(log_softmax(matrix[:count]), torch.cat(alone_logprobs[:count]))


def test_the_fast_way_is_the_default_rule_on_the_kept_weights() -> None:
    class Door:
        def choose(self, weights_RV, rows):
            return InverseCDF().choose(weights_RV, rows)

    matrix, rows = logits(33, 1001), mixed_rows(33)
    assert Sampler(Door()).sample(matrix, rows) == Sampler().sample(matrix, rows) == Sampler(InverseCDF()).sample(matrix, rows)


@pytest.mark.parametrize("kind", ["strided", "offset", "bfloat16"])
def test_the_way_logits_lie_in_memory_does_not_show(kind: str) -> None:
    matrix, rows = logits(9, 523).bfloat16().float(), mixed_rows(9)
    usual = Sampler().sample(matrix, rows)
    if kind == "strided":
        other = torch.empty(9, 2 * 523)[:, ::2]
        other.copy_(matrix)
    elif kind == "offset":
        other = torch.empty(9 * 523 + 3)[3:].view(9, 523)
        other.copy_(matrix)
    else:
        other = matrix.bfloat16()
    before = other.clone()
    assert Sampler().sample(other, rows) == usual
    assert torch.equal(other, before)


def test_equal_logprobs_are_ordered_by_id_and_the_rank_agrees() -> None:
    row = torch.tensor([[1.0, 5.0, 2.0, 5.0, 5.0, 2.0]])
    for place, token in enumerate([1, 3, 4, 2, 5, 0]):
        (found,) = token_logprobs(row, [token], 6)
        assert [t for t, _ in found.top] == [1, 3, 4, 2, 5, 0]
        assert found.rank == place + 1 and found.top[place] == (token, found.logprob)
