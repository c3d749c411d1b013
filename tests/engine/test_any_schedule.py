"""Any settings and any workload: every step advances somebody within its budgets, no block is lost, and every request says what
it says alone. The model reads its own past back from the cache's blocks, so a block given to the wrong request shows."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from brigade.engine.engine import DynamicEngine, Engine, StaticEngine
from brigade.engine.sampling import SamplingParams
from tests.engine.fakes import remembering_engine, run_to_end

PREFIXES = ((), (1, 2, 3, 4, 5, 6, 7, 8), tuple(range(20)))
LONGEST = 20 + 12 + 10  # of prefix, tail and output


@dataclass(frozen=True)
class Ask:
    prompt: tuple[int, ...]
    params: SamplingParams
    at_step: int
    end_after: int | None  # steps until it is given up
    fails: bool  # it ends by an error inside a step, instead of by an abort between two


@st.composite
def asks(draw) -> Ask:
    prompt = draw(st.sampled_from(PREFIXES)) + tuple(draw(st.lists(st.integers(0, 96), min_size=1, max_size=12)))
    params = SamplingParams(
        temperature=0.0, max_tokens=draw(st.integers(1, 10)), priority=draw(st.integers(-1, 1)),
        n=draw(st.sampled_from([1, 1, 1, 3])), prompt_logprobs=draw(st.sampled_from([None, None, None, 0])),
    )  # fmt: skip
    end = draw(st.one_of(st.none(), st.none(), st.integers(0, 12)))
    return Ask(prompt, params, draw(st.integers(0, 12)), end, draw(st.booleans()))


@st.composite
def engine_settings(draw) -> dict:
    running = draw(st.integers(1, 5))
    block_size = draw(st.sampled_from([1, 2, 8]))
    least = -(-LONGEST // block_size)
    return {
        "max_batch_size": running, "max_step_tokens": running + draw(st.sampled_from([0, 1, 5, 30])),
        "prefill_chunk": draw(st.sampled_from([1, 3, 8, 64])), "block_size": block_size,
        "num_blocks": least + draw(st.sampled_from([0, 1, 3, 40])), "prefix_cache": draw(st.booleans()),
    }  # fmt: skip


# Half of a budget of one token is none: a long prompt under way must advance all the same.
ONE_TOKEN_A_STEP = {
    "max_batch_size": 1, "max_step_tokens": 1, "prefill_chunk": 1, "block_size": 8, "num_blocks": 6, "prefix_cache": True,
}  # fmt: skip
LONG_AND_SHORT = [Ask(tuple(range(12 - 11 * i)), SamplingParams(temperature=0.0), i, None, False) for i in range(2)]


def alone(ask: Ask) -> list[int]:
    engine = remembering_engine(prefix_cache=False, max_step_tokens=64, prefill_chunk=64)
    name = engine.submit(ask.prompt, SamplingParams(temperature=0.0, max_tokens=ask.params.max_tokens))
    run_to_end(engine)
    return engine.take_output(name).token_ids


def check_step(engine: Engine, before: int) -> None:
    """What every step keeps to, given the number of batches before it."""
    engine.check()
    config, batches = engine.config, engine.controller.runner.model.batches[before:]
    assert len(engine.scheduler.running) <= config.max_batch_size
    for batch in batches:
        assert 0 < batch.num_tokens <= config.max_step_tokens and len(batch.spans) <= config.max_batch_size
        assert all(len(span.token_ids) <= config.prefill_chunk for span in batch.spans)


def failures(engine: Engine) -> set[str]:
    """Names put into this set end in an error inside the next step that computes them: after the plan, before the advance."""
    names: set[str] = set()
    finish = engine.controller.finish

    def finish_and_fail(batch, requests):
        deltas = finish(batch, requests)
        for request in requests:
            if request.request_id in names and not request.is_finished:
                request.finish_reason = "error"
        return deltas

    engine.controller.finish = finish_and_fail
    return names


def play(engine: Engine, workload: list[Ask]) -> dict[int, list[tuple[list[int], str]]]:
    step, started, failing = 0, set(), failures(engine)
    while len(started) < len(workload) or engine.has_work:
        for number, ask in enumerate(workload):
            name = str(number)
            if ask.at_step == step:
                engine.submit(ask.prompt, ask.params, request_id=name)
                started.add(number)
            if ask.end_after is not None and step == ask.at_step + ask.end_after and not engine.is_finished(name):
                failing.add(name) if ask.fails else engine.abort(name)
        before, ready = len(engine.controller.runner.model.batches), engine.scheduler.has_work
        engine.step()
        assert not ready or len(engine.controller.runner.model.batches) == before + 1, "work waits, and nothing was computed"
        check_step(engine, before)
        step += 1
        assert step < 3000, "the engine hangs"
    return {
        number: [(sample.token_ids, sample.finish_reason) for sample in engine.take_output(str(number)).samples]
        for number in range(len(workload))
    }


@pytest.mark.parametrize("kind", [DynamicEngine, StaticEngine])
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@example(config=ONE_TOKEN_A_STEP, workload=LONG_AND_SHORT)
@given(config=engine_settings(), workload=st.lists(asks(), min_size=1, max_size=7))
def test_every_request_says_what_it_says_alone(kind, config: dict, workload: list[Ask]) -> None:
    engine = remembering_engine(kind, **config)
    said = play(engine, workload)
    for number, ask in enumerate(workload):
        expected = alone(ask)
        for tokens, reason in said[number]:
            assert reason in ("length", "abort", "error")
            assert tokens == (expected if reason == "length" else expected[: len(tokens)])
    assert engine.pool.num_free == engine.pool.num_blocks, "a block was lost"
    assert not engine.scheduler.waiting and not engine.scheduler.running


@pytest.mark.parametrize("kind", [DynamicEngine, StaticEngine])
def test_the_model_sees_a_block_in_the_wrong_hands(kind) -> None:
    """Guards the property: content that somebody else wrote changes what a request says."""
    ask = Ask(tuple(range(10)), SamplingParams(temperature=0.0, max_tokens=8), 0, None, False)
    engine = remembering_engine(kind)
    engine.submit(ask.prompt, ask.params, "0")
    engine.step()
    engine.controller.runner.model.cache[engine.scheduler.running[0].blocks[0]][3] += 1
    run_to_end(engine)
    assert engine.take_output("0").token_ids != alone(ask)
