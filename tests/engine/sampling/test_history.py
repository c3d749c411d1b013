"""Penalties count a row's ids step by step; the result is that of counting from the start, and of transformers."""

from __future__ import annotations

import random

import pytest
import torch

from brigade.engine.sampling import Sampler, SamplingParams
from brigade.engine.sampling.history import Histories, History
from brigade.engine.sampling.processors import edit_logits
from tests.engine.sampling.test_sampler import Row, logits


def reference(logits_V: torch.Tensor, row: Row) -> torch.Tensor:
    """The definitions, token by token."""
    out = logits_V.tolist()
    params, output = row.params, list(row.output_token_ids)
    for token in {*row.prompt_token_ids, *output}:
        out[token] = out[token] / params.repetition_penalty if out[token] > 0 else out[token] * params.repetition_penalty
    for token in set(output):
        out[token] -= params.frequency_penalty * output.count(token) + params.presence_penalty
    return torch.tensor(out)


PENALTIES = SamplingParams(temperature=0.8, repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=-0.2)


def test_growing_step_by_step_equals_counting_anew_and_the_definitions() -> None:
    random_ids, vocab = random.Random(1), 50
    rows = [Row(PENALTIES, i, 0, [random_ids.randrange(vocab) for _ in range(i)], []) for i in range(5)]
    sampler = Sampler()
    for step in range(150):
        matrix = logits(5, vocab, step)
        here = [i for i in range(5) if (step + i) % 7]  # rows come and go, as preempted ones do
        found = sampler.sample(matrix[here], [rows[i] for i in here])
        for place, i in enumerate(here):
            assert Sampler().sample(matrix[i : i + 1], [rows[i]]) == [found[place]]
            torch.testing.assert_close(edit_logits(matrix[i], rows[i]), reference(matrix[i], rows[i]), atol=1e-5, rtol=1e-5)
            rows[i].output_token_ids.append(found[place].token_id)
            rows[i].position += 1


def test_an_output_that_shrank_is_counted_anew() -> None:
    row, histories = Row(PENALTIES, output_token_ids=[4, 5, 5]), Histories()
    assert histories.of([row])[0].counts.tolist() == [1.0, 2.0]
    del row.output_token_ids[1:]
    (history,) = histories.of([row])
    assert history.ids.tolist() == [4] and history.counts.tolist() == [1.0]


def test_rows_that_left_are_forgotten() -> None:
    histories, first, second = Histories(), Row(PENALTIES), Row(PENALTIES)
    histories.of([first, second])
    histories.of([second])
    assert [history.row for history in histories._held.values()] == [second]


def test_a_long_output_outgrows_the_first_arrays() -> None:
    history = History(Row(PENALTIES, prompt_token_ids=[1, 1, 3], output_token_ids=list(range(500))))
    history.catch_up()
    assert sorted(history.ids.tolist()) == list(range(500)) and history.counts.tolist() == [1.0] * 500


@pytest.mark.parametrize("penalty", [0.7, 1.0, 1.8])
def test_the_repetition_penalty_is_that_of_transformers(penalty: float) -> None:
    from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

    row = Row(SamplingParams(repetition_penalty=penalty), prompt_token_ids=[3, 9, 3], output_token_ids=[7, 9])
    before = logits(1, 40, 5)
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([[3, 9, 3, 7, 9]]), before.clone())
    assert torch.equal(edit_logits(before[0], row), theirs[0])


@pytest.mark.parametrize(("ignore_eos", "banned"), [(False, [2, 5]), (True, [5])])
def test_a_least_length_bans_what_would_end_the_request(ignore_eos: bool, banned: list[int]) -> None:
    params = SamplingParams(min_tokens=2, stop_token_ids=[5, 10**6], ignore_eos=ignore_eos)
    for said in range(4):
        row = Row(params, output_token_ids=[1] * said, eos_ids=(2,))
        found = torch.nonzero(torch.isinf(edit_logits(torch.zeros(8), row))).squeeze(1).tolist()
        assert found == (banned if said < 2 else [])
