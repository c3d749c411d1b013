"""A token is a function of its logits, parameters, seed and position; the sets kept are those of the definitions."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from brigade.engine.sampling import Sampler, SamplingParams
from brigade.engine.sampling.filters import kept_weights
from brigade.engine.sampling.logprobs import token_logprobs
from brigade.engine.sampling.processors import edit_logits
from brigade.engine.sampling.rng import derive_seed, uniform
from brigade.engine.sampling.settings import Settings


@dataclass
class Row:
    params: SamplingParams
    seed: int = 0
    position: int = 0
    prompt_token_ids: list[int] = field(default_factory=list)
    output_token_ids: list[int] = field(default_factory=list)
    eos_ids: tuple[int, ...] = ()


def logits(rows: int, vocab: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3


SHAPES = [
    {"temperature": 0.0}, {"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.1},
    {"temperature": 1.4, "top_k": 40, "top_p": 0.95, "min_p": 0.01}, {"repetition_penalty": 1.3, "presence_penalty": 0.5},
    {"logprobs": 4, "temperature": 0.9},
]  # fmt: skip


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("vocab", [37, 1000, 4096])
def test_company_does_not_show(threads: int, vocab: int) -> None:
    torch.set_num_threads(threads)
    rows = [Row(SamplingParams(**SHAPES[i % len(SHAPES)]), i, 5 * i, [1, 2, i], [i, 3]) for i in range(33)]
    matrix = logits(33, vocab)
    together = Sampler().sample(matrix, rows)
    for i in range(33):
        assert Sampler().sample(matrix[i : i + 1].clone(), rows[i : i + 1]) == [together[i]]


def kept(row_logits: torch.Tensor, **params) -> set[int]:
    row = Row(SamplingParams(**params))
    weights = kept_weights(row_logits.unsqueeze(0), Settings.of([row], row_logits.device))
    return set(torch.nonzero(weights[0]).squeeze(1).tolist())


@pytest.mark.parametrize("vocab", [50, 700])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("params", "warper"),
    [
        ({"top_k": 7}, lambda t: [t.TopKLogitsWarper(7)]),
        ({"top_p": 0.7}, lambda t: [t.TopPLogitsWarper(0.7)]),
        ({"top_p": 0.999}, lambda t: [t.TopPLogitsWarper(0.999)]),
        ({"min_p": 0.02}, lambda t: [t.MinPLogitsWarper(0.02)]),
        ({"temperature": 2.5, "top_k": 30, "top_p": 0.9},
         lambda t: [t.TemperatureLogitsWarper(2.5), t.TopKLogitsWarper(30), t.TopPLogitsWarper(0.9)]),
    ],
)  # fmt: skip
def test_the_kept_set_is_that_of_transformers(params, warper, vocab: int, seed: int) -> None:
    from transformers.generation import logits_process

    row = logits(1, vocab, seed)[0]
    theirs = row.unsqueeze(0)
    for process in warper(logits_process):
        theirs = process(None, theirs)
    assert kept(row, **params) == set(torch.nonzero(torch.isfinite(theirs[0])).squeeze(1).tolist())


def test_equal_logits_stay_or_go_together() -> None:
    row = torch.tensor([1.0, 3.0, 3.0, 3.0, 0.0])
    assert kept(row, top_k=1) == {1, 2, 3}
    assert kept(row, top_p=0.1) == {1, 2, 3}


def test_penalties_follow_their_definitions() -> None:
    row = Row(
        SamplingParams(repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25, logit_bias={4: 7.0}, min_tokens=9),
        prompt_token_ids=[0, 1], output_token_ids=[1, 2, 2], eos_ids=(5,),
    )  # fmt: skip
    before = torch.tensor([2.0, -2.0, 4.0, 1.0, 1.0, 9.0])
    after = edit_logits(before, row)
    assert after.tolist() == [1.0, -4.0 - 0.75, 2.0 - 1.0, 1.0, 8.0, float("-inf")]
    assert before[5] == 9.0, "the logits themselves stay, for the logprobs"


def test_draws_follow_the_probabilities() -> None:
    row = torch.tensor([[0.5, 1.5, -1.0, 0.0, 1.0]])
    expected = torch.softmax(row[0], -1) * 4000
    rows = [Row(SamplingParams(), seed=9, position=i) for i in range(4000)]
    tokens = [sampled.token_id for sampled in Sampler().sample(row.expand(4000, -1), rows)]
    counts = torch.bincount(torch.tensor(tokens), minlength=5)
    assert float(((counts - expected) ** 2 / expected).sum()) < 18.5  # chi-square, 4 degrees of freedom, p = 0.001


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**64 - 1), position=st.integers(0, 2**20))
def test_the_generator_is_a_function_into_the_unit_interval(seed: int, position: int) -> None:
    assert 0.0 <= uniform(seed, position) < 1.0
    assert uniform(seed, position) == uniform(seed, position)
    assert uniform(seed, position) != uniform(seed, position + 1)
    assert derive_seed(seed, 0) == seed and derive_seed(seed, 1) != seed


def test_the_generator_is_the_same_everywhere() -> None:
    assert [uniform(0, 0), uniform(1, 7), uniform(2**64 - 1, 1000)] == GOLDEN


def test_a_zero_weight_is_never_chosen() -> None:
    row = torch.full((1, 64), float("-inf"))
    row[0, 17] = 0.0
    rows = [Row(SamplingParams(), seed=s, position=s) for s in range(200)]
    assert {s.token_id for s in Sampler().sample(row.expand(200, -1), rows)} == {17}


def test_logprobs_equal_those_of_torch() -> None:
    matrix = logits(6, 501)
    tokens = [3, 1, 4, 1, 5, 9]
    expected = torch.log_softmax(matrix.double(), -1)
    for i, found in enumerate(token_logprobs(matrix, tokens, 5)):
        assert abs(found.logprob - expected[i, tokens[i]].item()) < 1e-5
        assert [token for token, _ in found.top] == torch.topk(matrix[i], 5).indices.tolist()
        assert found.rank == int((matrix[i] > matrix[i, tokens[i]]).sum()) + 1


def test_broken_logits_are_an_error_and_not_token_zero() -> None:
    bad = torch.zeros(2, 8)
    bad[1, 3] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite"):
        Sampler().sample(bad, [Row(SamplingParams(temperature=0)), Row(SamplingParams(temperature=0))])


GOLDEN = [0.6524484863740322, 0.46519245062848724, 0.7678393531578306]
