"""The promise: a request's tokens are those it has alone, whatever else the engine does meanwhile; and no block leaks."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brigade.engine.engine import StaticEngine
from brigade.engine.sampling import SamplingParams
from tests.engine.fakes import CONFIG, make_engine, run_to_end

PREFIXES = [[7 * i % 71 for i in range(40)], [(5 * i + 3) % 71 for i in range(24)]]


@dataclass(frozen=True)
class Ask:
    """A request, when it comes, and when it is given up."""

    prompt: tuple[int, ...]
    params: SamplingParams
    at_step: int
    abort_after: int | None


def params_of(kind: int, tokens: int, seed: int, priority: int) -> SamplingParams:
    shapes = [
        {"temperature": 0.0},
        {"temperature": 0.9, "seed": seed},
        {"temperature": 1.3, "top_p": 0.8, "top_k": 12, "seed": seed},
        {"temperature": 0.7, "min_p": 0.05, "repetition_penalty": 1.2, "frequency_penalty": 0.5, "seed": seed},
    ]
    return SamplingParams(max_tokens=tokens, priority=priority, **shapes[kind])


@st.composite
def asks(draw) -> Ask:
    prefix = draw(st.sampled_from([[], *PREFIXES]))
    tail = draw(st.lists(st.integers(0, CONFIG.vocab_size - 1), min_size=0 if prefix else 1, max_size=30))
    params = params_of(draw(st.integers(0, 3)), draw(st.integers(1, 24)), draw(st.integers(0, 3)), draw(st.integers(-1, 1)))
    abort = draw(st.one_of(st.none(), st.none(), st.none(), st.integers(0, 12)))
    return Ask((*prefix, *tail), params, draw(st.integers(0, 25)), abort)


_ALONE: dict[tuple, list[int]] = {}


def alone(ask: Ask) -> list[int]:
    """What the request says when nobody else is there and there is room for everything."""
    key = (ask.prompt, repr(ask.params))
    if key not in _ALONE:
        engine = make_engine(prefix_cache=False, block_size=64, max_step_tokens=256, prefill_chunk=256, num_blocks=4)
        name = engine.submit(ask.prompt, ask.params)
        run_to_end(engine)
        _ALONE[key] = engine.take_output(name).token_ids
    return _ALONE[key]


def play(engine, requests: list[Ask]) -> tuple[dict[int, list[int]], int]:
    """Submit and abort on time, step to the end; return what each said, and how often anyone was preempted."""
    said, step, started = {}, 0, set()
    while len(started) < len(requests) or engine.has_work:
        for number, ask in enumerate(requests):
            if ask.at_step == step:
                engine.submit(ask.prompt, ask.params, request_id=str(number))
                started.add(number)
            if ask.abort_after is not None and step == ask.at_step + ask.abort_after and not engine.is_finished(str(number)):
                engine.abort(str(number))
        engine.step()
        engine.check()
        step += 1
        assert step < 4000, "the engine hangs"
    preemptions = 0
    for number in range(len(requests)):
        output = engine.take_output(str(number))
        said[number] = (output.token_ids, output.finish_reason)
        preemptions += output.metrics.preemptions
    return said, preemptions


def check(requests: list[Ask], engine) -> int:
    said, preemptions = play(engine, requests)
    for number, ask in enumerate(requests):
        tokens, reason = said[number]
        expected = alone(ask)
        if reason == "abort":
            assert tokens == expected[: len(tokens)]
        else:
            assert tokens == expected
            assert reason == "length"
    assert engine.pool.num_free == engine.pool.num_blocks, "a block leaked"
    return preemptions


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    requests=st.lists(asks(), min_size=1, max_size=8),
    block_size=st.sampled_from([8, 16, 32, 64]),
    chunk=st.integers(1, 70),
    budget=st.integers(8, 100),
    running=st.integers(1, 8),
    spare=st.integers(0, 6),
    prefix_cache=st.booleans(),
)
def test_tokens_equal_those_of_the_request_alone(requests, block_size, chunk, budget, running, spare, prefix_cache) -> None:
    longest = max(len(ask.prompt) + ask.params.max_tokens for ask in requests)
    blocks = -(-longest // block_size) + spare  # barely room for one: the others are preempted all the time
    engine = make_engine(
        num_blocks=blocks, block_size=block_size, prefill_chunk=chunk, max_step_tokens=budget, max_batch_size=running,
        prefix_cache=prefix_cache,
    )  # fmt: skip
    check(requests, engine)


@pytest.mark.slow
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    requests=st.lists(asks(), min_size=2, max_size=12),
    block_size=st.sampled_from([8, 16, 32, 64]),
    chunk=st.integers(1, 70),
    budget=st.integers(8, 100),
    spare=st.integers(0, 10),
)
def test_many_more_schedules(requests, block_size, chunk, budget, spare) -> None:
    longest = max(len(ask.prompt) + ask.params.max_tokens for ask in requests)
    engine = make_engine(
        num_blocks=-(-longest // block_size) + spare, block_size=block_size, prefill_chunk=chunk, max_step_tokens=budget
    )
    check(requests, engine)


def crowd(count: int = 8) -> list[Ask]:
    return [Ask(tuple(PREFIXES[i % 2] + [i]), params_of(i % 4, 20, i, 0), i // 3, None) for i in range(count)]


def test_the_tight_budget_does_preempt() -> None:
    """Guards the property test: its schedules must really take blocks away."""
    assert check(crowd(), make_engine(num_blocks=9, prefix_cache=False)) > 0


def test_the_prefix_cache_is_really_hit() -> None:
    engine = make_engine(num_blocks=64)
    first = engine.submit(PREFIXES[0] + [1], SamplingParams(max_tokens=20, temperature=0.0))
    run_to_end(engine)
    said = engine.take_output(first).token_ids
    again = engine.submit(PREFIXES[0] + [1] + said, SamplingParams(max_tokens=4, temperature=0.0))
    run_to_end(engine)
    output = engine.take_output(again)
    assert output.metrics.cached_tokens >= 56, "prompt and generated tokens are both in the cache"
    assert output.token_ids == alone(Ask(tuple(PREFIXES[0] + [1] + said), SamplingParams(max_tokens=4, temperature=0.0), 0, None))


def test_the_static_engine_says_the_same() -> None:
    check(crowd(), make_engine(StaticEngine, num_blocks=64, max_batch_size=3))


@pytest.mark.parametrize("threads", [1, 2])
def test_logits_are_the_same_bits_at_any_chunk_and_in_any_company(threads: int) -> None:
    torch.set_num_threads(threads)
    ids = [(11 * i) % 71 for i in range(150)]

    def logits(**settings) -> torch.Tensor:
        engine = make_engine(**settings)
        for i in range(5):
            engine.submit(ids[i : i + 20 + i], SamplingParams(max_tokens=30, temperature=0.0))
        engine.submit(ids, SamplingParams(max_tokens=1), "asked", collect_logits=True)
        run_to_end(engine)
        return engine.take_logits("asked")

    expected = logits(block_size=64, max_step_tokens=256, prefill_chunk=256)
    torch.set_num_threads(1)
    for chunk in (1, 7, 64, 100):
        assert torch.equal(logits(prefill_chunk=chunk, block_size=16), expected)


def test_prompt_logprobs_survive_chunks_and_preemption() -> None:
    params = SamplingParams(max_tokens=3, temperature=0.0, prompt_logprobs=3)
    prompt = PREFIXES[0] + PREFIXES[1]

    def ask(engine):
        for ask in crowd(4):
            engine.submit(ask.prompt, ask.params)
        name = engine.submit(prompt, params)
        run_to_end(engine)
        return engine.take_output(name).prompt_logprobs

    expected = ask(make_engine())
    assert expected[0] is None and all(expected[1:])
    assert [entry.token_id for entry in expected[1:]] == prompt[1:]
    assert ask(make_engine(num_blocks=12, prefill_chunk=5)) == expected
