"""The reference backend on a GPU keeps the promise too: a request alone says what it says in company, whole or in chunks, with few
blocks or many, on one rank or on ranks that share the card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from brigade import LLM, SamplingParams
from brigade.backends.reference import ReferenceBackend
from brigade.backends.reference.matmul import multiply_each
from brigade.backends.reference.probe import Product, product_holds
from tests.api.small_model import ROOM, greedy, heard, ids

if not torch.cuda.is_available():
    pytest.skip("needs a GPU that torch can use", allow_module_level=True)

GPU: dict[str, Any] = {"device": "cuda", "backend": "reference"}
PROMPTS = [ids(1), ids(40, 1), ids(150, 2), ids(33, 3)]
PARAMS = [
    greedy(),
    greedy(prompt_logprobs=2, logprobs=3),
    SamplingParams(max_tokens=8, seed=3, n=3, logprobs=1, top_p=0.9),
    SamplingParams(max_tokens=6, seed=4, repetition_penalty=1.4, min_tokens=5, echo=True, prompt_logprobs=0),
]
SETTINGS = {
    "chunks of 7": {"prefill_chunk": 7},
    "whole prompts": {"prefill_chunk": 256, "max_step_tokens": 256},
    "one at a time": {"max_batch_size": 1},
    "too few blocks": {"kv_blocks": 8},
    "the static engine": {"engine": "static"},
}
LAYOUTS = {"tp 2": {"tp": 2}, "pp 2": {"pp": 2}, "tp 2 x pp 2": {"tp": 2, "pp": 2}}


@pytest.fixture(scope="module")
def alone(folder: Path):
    with LLM(folder, **ROOM | GPU) as llm:
        yield llm


@pytest.fixture(scope="module")
def expected(alone: LLM) -> list[tuple]:
    return [heard(alone.generate([prompt], one)[0]) for prompt, one in zip(PROMPTS, PARAMS, strict=True)]


@pytest.mark.parametrize(("k", "n", "tree", "shares"), [
    (64, 192, False, 4), (1024, 3072, False, 4), (4096, 1024, True, 1), (1000, 136, False, 4), (12288, 1536, False, 8),
    (1024, 50304, False, 2), (64, 4096, False, 8),
])  # fmt: skip
def test_a_row_of_a_product_does_not_depend_on_the_others(k: int, n: int, tree: bool, shares: int) -> None:
    """Nor do outputs on how many ranks share them. What does not hold is refused when a model is loaded."""
    backend = ReferenceBackend("cuda")
    assert product_holds(backend, Product(k, n, tree, shares)) and "ordered" in backend.numerics_id


@pytest.mark.parametrize(("batches", "m", "n", "k"), [(1, 1, 33, 70), (3, 17, 40, 64), (2, 64, 100, 33), (40000, 4, 64, 16)])
def test_products_are_right_however_their_tensors_lie(batches: int, m: int, n: int, k: int) -> None:
    generator = torch.Generator(device="cuda").manual_seed(1)
    x, weight = (torch.randn(batches, size, k, generator=generator, device="cuda") for size in (m, n))
    expected = x.double() @ weight.double().transpose(1, 2)
    for given in (weight, weight.transpose(1, 2).contiguous().transpose(1, 2)):
        assert (multiply_each(x, given).double() - expected).abs().max() < 1e-4


def test_its_logits_are_those_of_the_cpu_but_for_rounding(folder: Path) -> None:
    """In float32: a bfloat16 cache rounds what differs in the last bit to neighbours that are far apart."""
    settings = {**ROOM, "backend": "reference", "dtype": "float32"}
    with LLM(folder, **settings) as cpu, LLM(folder, device="cuda", **settings) as gpu:
        for found, wanted in zip(gpu.logits(PROMPTS), cpu.logits(PROMPTS), strict=True):
            assert (found.cpu() - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_requests_together_say_what_each_says_alone(alone: LLM, expected: list[tuple]) -> None:
    assert [heard(output) for output in alone.generate(PROMPTS * 2, PARAMS * 2)] == expected * 2


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_do_not_show(name: str, folder: Path, expected: list[tuple]) -> None:
    with LLM(folder, **ROOM | GPU | SETTINGS[name]) as llm:
        assert [heard(output) for output in llm.generate(PROMPTS * 2, PARAMS * 2)] == expected * 2


@pytest.mark.parametrize("name", LAYOUTS)
def test_ranks_that_share_the_card_say_the_same(name: str, folder: Path, alone: LLM, expected: list[tuple]) -> None:
    with LLM(folder, **ROOM | GPU | LAYOUTS[name]) as ranks:
        assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(ranks.logits(PROMPTS), alone.logits(PROMPTS), strict=True))
        assert [heard(output) for output in ranks.generate(PROMPTS, PARAMS)] == expected
        assert ranks.numerics_id == alone.numerics_id and ranks.fingerprint == alone.fingerprint


def test_the_memory_plan_is_that_of_the_card(folder: Path) -> None:
    free = torch.cuda.mem_get_info()[0]
    with LLM(folder, **ROOM | GPU) as llm:
        assert 0.5 * free < llm.plan.available <= 1.01 * free
