"""The Python face, on the embedded model: its spelling, its refusals, and that it is the same as the parts."""

from __future__ import annotations

import asyncio

import pytest
import torch

import brigade
from brigade import LLM, AsyncLLM, SamplingParams
from brigade.errors import UserError

GREEDY = SamplingParams(max_tokens=12, temperature=0.0)


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(kv_blocks=64)


def test_the_documented_spelling(llm: LLM) -> None:
    outs = llm.generate(["def f(", [1, 2, 3]], SamplingParams(max_tokens=16, temperature=0.0, logprobs=5))
    assert len(outs[0].token_ids) == len(outs[0].logprobs) <= 16
    assert outs[0].text == llm.tokenizer.decode(outs[0].token_ids)
    assert outs[0].finish_reason in ("length", "stop")
    assert outs[0].prompt_token_ids == llm.tokenizer.encode("def f(")
    assert outs[1].prompt_token_ids == [1, 2, 3]
    assert len(outs[0].logprobs[0].top) == 5


def test_logits_are_what_generation_reads(llm: LLM) -> None:
    ids = llm.tokenizer.encode("import os\nimport sys\n")
    (full,) = llm.logits([ids])
    assert full.shape == (len(ids), llm.config.vocab_size) and full.dtype == torch.float32
    assert int(full[-1].argmax()) == llm.generate([ids], GREEDY)[0].token_ids[0]
    longer = ids + llm.generate([ids], GREEDY)[0].token_ids
    assert torch.equal(llm.logits([longer, [5, 6]])[0][: len(ids)], full)


def test_logits_equal_those_of_transformers(llm: LLM) -> None:
    from transformers import AutoModelForCausalLM

    from brigade.checkpoint.load import EMBEDDED

    theirs = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32, attn_implementation="eager").eval()
    ids = llm.tokenizer.encode("def fibonacci(n):\n    if n < 2:\n        return n\n")
    with torch.inference_mode():
        expected = theirs(torch.tensor([ids])).logits[0]
    own = LLM(dtype="float32", kv_blocks=8)
    assert (own.logits([ids])[0] - expected).abs().max() < 1e-4


@pytest.mark.parametrize("engine", ["static", "dynamic"])
def test_both_engines_say_the_same(llm: LLM, engine: str) -> None:
    prompts = ["def main():\n", "class A:\n", "import "]
    other = LLM(engine=engine, kv_blocks=64)
    params = SamplingParams(max_tokens=20, seed=4, temperature=0.8)
    assert [o.token_ids for o in other.generate(prompts, params)] == [o.token_ids for o in llm.generate(prompts, params)]


def test_streams_add_up(llm: LLM) -> None:
    whole = llm.generate(["x = ", "for i in "], GREEDY)
    texts = {"0": "", "1": ""}
    for delta in llm.stream(["x = ", "for i in "], GREEDY):
        texts[delta.request_id] += delta.text
    assert [texts["0"], texts["1"]] == [output.text for output in whole]


def test_leaving_a_stream_early_frees_everything(llm: LLM) -> None:
    for _ in llm.stream("def ", SamplingParams(max_tokens=100)):
        break
    assert llm.thread.wait_idle(10)
    assert not llm.engine.has_work
    llm.engine.check()
    assert llm.generate("def ", GREEDY)[0].finish_reason


def test_one_bad_prompt_refuses_all_and_leaves_nothing(llm: LLM) -> None:
    with pytest.raises(UserError, match="0 tokens"):
        llm.generate(["fine", []], GREEDY)
    assert llm.engine.num_waiting == 0
    assert llm.generate(["fine"], GREEDY)[0].token_ids


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dtype": "float8"}, "dtype is 'float8'"),
        ({"engine": "magic"}, "engine is 'magic'"),
        ({"backend": "magic"}, "unknown backend 'magic'"),
        ({"block_size": 24}, "block_size is 24"),
        ({"colour": 1}, "unknown setting colour"),
        ({"engine": "static", "prefix_cache": False}, "no effect on the static engine"),
        ({"engine": "static", "max_step_tokens": 4}, "below max_batch_size 32"),
        ({"max_model_len": 5000}, "made for 1024"),
        ({"threads": 0}, "threads is 0"),
        ({"random_weights": 1}, "weights of its own"),
        ({"model": "nowhere"}, "no model 'nowhere'"),
    ],
)
def test_settings_are_refused_in_one_line(settings, words) -> None:
    with pytest.raises(UserError, match=words) as refused:
        LLM(**settings)
    assert "\n" not in str(refused.value)


def test_many_async_callers_get_their_own_answers(llm: LLM) -> None:
    prompts = [f"def f{i}(" for i in range(6)]
    expected = [output.text for output in llm.generate(prompts, GREEDY)]

    async def one(server: AsyncLLM, prompt: str) -> str:
        return "".join([delta.text async for delta in server.stream(prompt, GREEDY)])

    async def everyone() -> list[str]:
        server = AsyncLLM(kv_blocks=64)
        try:
            texts = await asyncio.gather(*(one(server, prompt) for prompt in prompts))
            assert (await server.generate(prompts[0], GREEDY)).text == texts[0]
            with pytest.raises(UserError, match="0 tokens"):
                await server.generate([], GREEDY)
            async for _ in server.stream("while ", SamplingParams(max_tokens=200)):
                break
            return texts
        finally:
            server.close()

    assert asyncio.run(everyone()) == expected


def test_public_names_are_there() -> None:
    for name in brigade.__all__:
        assert getattr(brigade, name) is not None
    with pytest.raises(AttributeError):
        _ = brigade.nothing
