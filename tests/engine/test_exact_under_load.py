"""The promise, on every backend: a request's tokens and logits are those it has alone, to the last bit, whatever else the engine
does meanwhile; and no block leaks."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brigade.bench.recording import RecordingSampler
from brigade.engine.engine import DynamicEngine, StaticEngine
from brigade.engine.sampling import SamplingParams
from tests.engine.fakes import CONFIG, REFERENCE, SETUPS, Setup, computing, make_engine, run_to_end

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


_ALONE: dict[tuple, tuple[list[int], torch.Tensor]] = {}


def alone(ask: Ask, setup: Setup = REFERENCE) -> tuple[list[int], torch.Tensor]:
    """What the request says when nobody else is there and there is room for everything, and the logits of every token."""
    key = (setup, ask.prompt, repr(ask.params))
    if key not in _ALONE:
        sampler = RecordingSampler()
        engine = make_engine(
            prefix_cache=False, block_size=64, max_step_tokens=256, prefill_chunk=256, num_blocks=4, setup=setup, sampler=sampler
        )
        name = engine.submit(ask.prompt, ask.params, request_id="alone")
        with computing(setup, threads=1):
            run_to_end(engine)
        _ALONE[key] = engine.take_output(name).token_ids, sampler.of(name)
    return _ALONE[key]


@dataclass(frozen=True)
class Happened:
    """What a schedule put its requests through."""

    preemptions: int
    cached_tokens: int


def play(engine, requests: list[Ask]) -> tuple[dict[int, tuple[list[int], str]], Happened]:
    """Submit and abort on time, step to the end; return what each said."""
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
    metrics = []
    for number in range(len(requests)):
        output = engine.take_output(str(number))
        said[number] = (output.token_ids, output.finish_reason)
        metrics.append(output.metrics)
    return said, Happened(sum(m.preemptions for m in metrics), sum(m.cached_tokens for m in metrics))


def check(requests: list[Ask], setup: Setup = REFERENCE, kind=DynamicEngine, threads: int = 1, **engine_settings) -> Happened:
    """Play them all on one engine, and compare each with itself alone."""
    expected = [alone(ask, setup) for ask in requests]
    sampler = RecordingSampler()
    engine = make_engine(kind, setup=setup, sampler=sampler, **engine_settings)
    with computing(setup, threads):
        said, happened = play(engine, requests)
    for number, (tokens, logits) in enumerate(expected):
        found, reason = said[number]
        assert reason == "abort" or (reason == "length" and len(found) == len(tokens))
        assert found == tokens[: len(found)]
        if found:
            assert torch.equal(sampler.of(str(number)), logits[: len(found)])
    assert engine.pool.num_free == engine.pool.num_blocks, "a block leaked"
    return happened


# Schedules of a property: the block size is the which-th of those that the backend takes.
SCHEDULE = {
    "which": st.integers(0, 3), "chunk": st.integers(1, 70), "budget": st.integers(8, 100), "threads": st.sampled_from([1, 2]),
}  # fmt: skip
HYPOTHESIS = {"deadline": None, "suppress_health_check": list(HealthCheck)}


def check_tight(requests, setup: Setup, which: int, spare: int, **settings) -> Happened:
    """Barely room for one: the others are preempted all the time."""
    block_size = setup.block_sizes[which % len(setup.block_sizes)]
    longest = max(len(ask.prompt) + ask.params.max_tokens for ask in requests)
    return check(requests, setup, num_blocks=-(-longest // block_size) + spare, block_size=block_size, **settings)


@pytest.mark.parametrize("setup", SETUPS, ids=str)
@settings(max_examples=10, **HYPOTHESIS)
@given(
    requests=st.lists(asks(), min_size=1, max_size=8), running=st.integers(1, 8), spare=st.integers(0, 6),
    prefix_cache=st.booleans(), **SCHEDULE,
)  # fmt: skip
def test_tokens_and_logits_equal_those_of_the_request_alone(
    setup, requests, running, spare, prefix_cache, which, chunk, budget, threads
) -> None:
    threads = threads if setup.backend == "cpu" else 1  # torch's threads wait for each other dearly; the slow test has them
    check_tight(
        requests, setup, which, spare, threads=threads, prefill_chunk=chunk, max_step_tokens=budget, max_batch_size=running,
        prefix_cache=prefix_cache,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("setup", SETUPS, ids=str)
@settings(max_examples=300, **HYPOTHESIS)
@given(requests=st.lists(asks(), min_size=2, max_size=12), spare=st.integers(0, 10), **SCHEDULE)
def test_many_more_schedules(setup, requests, spare, which, chunk, budget, threads) -> None:
    check_tight(requests, setup, which, spare, threads=threads, prefill_chunk=chunk, max_step_tokens=budget)


def crowd(count: int = 8) -> list[Ask]:
    return [Ask(tuple(PREFIXES[i % 2] + [i]), params_of(i % 4, 20, i, 0), i // 3, None) for i in range(count)]


@pytest.mark.parametrize("setup", SETUPS, ids=str)
def test_the_tight_budget_does_preempt(setup: Setup) -> None:
    """Guards the property test: its schedules must really take blocks away."""
    blocks = -(-72 // setup.block_sizes[0])
    assert check(crowd(), setup, num_blocks=blocks, prefix_cache=False).preemptions > 0


@pytest.mark.parametrize("setup", SETUPS, ids=str)
def test_the_prefix_cache_is_really_hit(setup: Setup) -> None:
    sampler = RecordingSampler()
    engine = make_engine(num_blocks=64, setup=setup, sampler=sampler)
    first = engine.submit(PREFIXES[0] + [1], SamplingParams(max_tokens=30, temperature=0.0))
    run_to_end(engine)
    prompt = PREFIXES[0] + [1, *engine.take_output(first).token_ids]
    params = SamplingParams(max_tokens=4, temperature=0.0)
    again = engine.submit(prompt, params, request_id="again")
    run_to_end(engine)
    output = engine.take_output(again)
    assert output.metrics.cached_tokens >= 64, "prompt and generated tokens are both in the cache"
    tokens, logits = alone(Ask(tuple(prompt), params, 0, None), setup)
    assert output.token_ids == tokens and torch.equal(sampler.of("again"), logits)


@pytest.mark.parametrize("setup", SETUPS, ids=str)
def test_the_static_engine_says_the_same(setup: Setup) -> None:
    check(crowd(), setup, StaticEngine, num_blocks=64, max_batch_size=3)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("setup", SETUPS, ids=str)
def test_logits_are_the_same_bits_at_any_chunk_and_in_any_company(setup: Setup, threads: int) -> None:
    ids = [(11 * i) % 71 for i in range(150)]

    def logits(threads: int, **settings) -> torch.Tensor:
        engine = make_engine(setup=setup, **settings)
        for i in range(5):
            engine.submit(ids[i : i + 20 + i], SamplingParams(max_tokens=30, temperature=0.0))
        engine.submit(ids, SamplingParams(max_tokens=1), "asked", collect_logits=True)
        with computing(setup, threads):
            run_to_end(engine)
        return engine.take_logits("asked")

    expected = logits(threads, block_size=64, max_step_tokens=256, prefill_chunk=256)
    for chunk in (1, 7, 64, 100):
        assert torch.equal(logits(1, prefill_chunk=chunk, block_size=setup.block_sizes[-2]), expected)


@pytest.mark.parametrize("setup", SETUPS, ids=str)
def test_the_comparison_sees_one_bit(setup: Setup, monkeypatch) -> None:
    """Guards the properties: one last bit of one logit in company is a failure."""
    from tests.engine import fakes

    model = fakes.tiny_model(setup)
    honest = type(model).logits

    def nudged(self, x_TH, step):
        out = honest(self, x_TH, step)
        if out.shape[0] > 1:
            out[1, 0] = torch.nextafter(out[1, 0], torch.tensor(torch.inf))
        return out

    monkeypatch.setattr(type(model), "logits", nudged)
    with pytest.raises(AssertionError):
        check(crowd(), setup, num_blocks=64)


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
