"""Any number of steps under way and any workload: whatever happens to a request, it says what it says alone on one rank; and each
mark, block and answer is where it belongs after every step. `test_in_flight.py` has the single cases."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brigade.batch import Wanted
from brigade.engine.engine import DynamicEngine, Engine, StaticEngine
from brigade.engine.outputs import RequestOutput, Sample
from brigade.engine.sampling import Sampler, SamplingParams, register_parameter
from brigade.engine.sampling.sampler import InverseCDF
from tests.engine.fakes import CPU, REFERENCE, SETUPS, Letters, SpeakingModel, run_to_end, speaking_engine
from tests.engine.test_any_schedule import engine_settings as settings_at_any_depth
from tests.engine.test_exact_under_load import check as check_bits
from tests.engine.test_exact_under_load import crowd

KINDS, DEPTHS = [DynamicEngine, StaticEngine], [1, 2, 4]
GREEDY = {"temperature": 0.0}
PREFIXES = ((), (1, 2, 3, 4, 5, 6, 7, 8), tuple(range(14, 34)), (1, 2, SpeakingModel.POISON))


def fail(logits_V, value, row):
    if row.position % 5 == value:
        raise ArithmeticError("a parameter that fails")
    return logits_V


register_parameter("fails_in_flight", lambda value: None if isinstance(value, int) else "it must be an integer", fail)


class Rule:
    """The default rule, which raises for some seeds at some positions."""

    def choose(self, weights_RV, rows):
        if any(row.seed % 5 == 3 and row.position % 7 == 2 for row in rows):
            raise LookupError("a rule that fails")
        return InverseCDF().choose(weights_RV, rows)


@dataclass(frozen=True)
class Ask:
    prompt: tuple[int, ...]
    params: SamplingParams
    at_step: int = 0
    end_after: int | None = None  # steps until it is given up
    collect: bool = False  # its logits are asked for


KINDS_OF_SAMPLING = (
    GREEDY, GREEDY, {"temperature": 0.9}, {"temperature": 1.2, "top_p": 0.8}, {"temperature": 0.0, "repetition_penalty": 1.3},
    {"temperature": 0.0, "min_tokens": 3, "stop_token_ids": tuple(range(40, 60))}, {"temperature": 0.7, "presence_penalty": 0.5},
    {"temperature": 0.0, "extra": {"fails_in_flight": 2}}, {"temperature": 0.0, "logit_bias": {7: 5.0}},
)  # fmt: skip
EXTRAS = (
    {}, {}, {}, {"logprobs": 2}, {"prompt_logprobs": 1}, {"stop": ("a", "B", "0", "7")}, {"stop": ("5", "x"), "include_stop": True},
    {"echo": True}, {"max_tokens": 0, "prompt_logprobs": 0}, {"max_tokens": 0, "echo": True},
)  # fmt: skip


@st.composite
def asks(draw) -> Ask:
    prompt = draw(st.sampled_from(PREFIXES)) + tuple(draw(st.lists(st.integers(0, 96), min_size=1, max_size=12)))
    given = {
        "max_tokens": draw(st.integers(1, 10)), "priority": draw(st.integers(-1, 1)), "seed": draw(st.integers(0, 9)),
        "n": draw(st.sampled_from([1, 1, 1, 3])),
    }  # fmt: skip
    given |= draw(st.sampled_from(KINDS_OF_SAMPLING)) | draw(st.sampled_from(EXTRAS))
    given["min_tokens"] = min(given.get("min_tokens", 0), given["max_tokens"])
    collect = draw(st.sampled_from([False] * 7 + [True]))
    if collect:
        given = {"max_tokens": 1, "priority": given["priority"]}
    end = draw(st.one_of(st.none(), st.none(), st.integers(0, 12)))
    return Ask(prompt, SamplingParams(**given), draw(st.integers(0, 12)), end, collect)


@st.composite
def engine_settings(draw) -> dict:
    return draw(settings_at_any_depth()) | {"finds_best": draw(st.booleans())}


def submit(engine: Engine, ask: Ask, name: str) -> None:
    engine.submit(ask.prompt, ask.params, name, collect_logits=ask.collect)


@lru_cache(maxsize=4096)
def _alone(ask: Ask) -> RequestOutput | np.ndarray:
    engine = speaking_engine(prefix_cache=False, max_step_tokens=64, prefill_chunk=64, sampler=Sampler(Rule()))
    submit(engine, ask, "alone")
    run_to_end(engine)
    return engine.take_logits("alone").numpy() if ask.collect else engine.take_output("alone")


def alone(ask: Ask) -> RequestOutput | np.ndarray:
    """On one rank, with room for everything."""
    return _alone(replace(ask, at_step=0, end_after=None))


def check_marks(engine: Engine) -> None:
    """No block is lost; and of every request what was sent, and has not come, is exactly what lies between its two marks."""
    engine.check()
    size = engine.pool.block_size
    assert len(engine.under_way) < engine.depth
    for sent in engine.under_way:
        assert len(set(sent.requests)) == len(sent.requests), "twice in one step"
    for request in engine.scheduler.running:
        assert request.published * size <= request.settled <= request.computed <= len(request.ids)
        mine = [
            span
            for sent in engine.under_way
            for owner, span in zip(sent.owners(), sent.batch.spans, strict=True)
            if owner is request
        ]
        at = request.settled
        for span in mine:
            assert span.start == at, "a step under way does not go on where the one before it ends"
            at = span.end
        assert at == request.computed
        assert all(span.end < len(request.ids) for span in mine[:-1]), "a token under way was sent again"
    for request in engine.scheduler.waiting:
        assert (request.settled, request.computed, request.blocks) == (0, 0, [])


def watch(engine: Engine) -> Counter[str]:
    """Check every plan, and count what happens to steps under way."""
    schedule, finish, seen = engine.scheduler.schedule, engine.controller.finish, Counter()

    def checked_schedule():
        plan = schedule()
        config = engine.config
        assert all(1 <= count <= request.pending for request, count in plan.tokens.items()), "nothing of it is to be computed"
        assert sum(plan.tokens.values()) <= config.max_step_tokens and len(plan.tokens) <= config.max_batch_size
        assert all(count <= config.prefill_chunk for count in plan.tokens.values())
        return plan

    def counted_finish(batch, owners):
        seen["stale"] += sum(owner is None for owner in owners)
        seen["best"] += sum(span.wanted is Wanted.BEST for span in batch.spans)
        seen["behind"] += len(engine.under_way)
        return finish(batch, owners)

    engine.scheduler.schedule, engine.controller.finish = checked_schedule, counted_finish
    return seen


@dataclass(frozen=True)
class Played:
    outputs: dict[int, RequestOutput | np.ndarray]
    seen: Counter[str]
    preemptions: int
    cached: int


def play(engine: Engine, workload: list[Ask]) -> Played:
    """Submit and give up on time, step to the end, and check the books after every step."""
    runner, seen = engine.controller.runner, watch(engine)
    texts: dict[tuple[str, int], str] = {}
    step, started = 0, set()
    while len(started) < len(workload) or engine.has_work:
        for number, ask in enumerate(workload):
            name = str(number)
            if ask.at_step == step:
                submit(engine, ask, name)
                started.add(number)
            if ask.end_after is not None and step == ask.at_step + ask.end_after and not engine.is_finished(name):
                engine.abort(name)
        before, ready = runner.sent + runner.received, engine.scheduler.has_work or engine.under_way
        for delta in engine.step():
            texts[delta.request_id, delta.index] = texts.get((delta.request_id, delta.index), "") + delta.text
        assert not ready or runner.sent + runner.received > before, "a step did nothing"
        check_marks(engine)
        step += 1
        assert step < 5000, "the engine hangs"
    assert runner.sent == runner.received
    assert engine.pool.num_free == engine.pool.num_blocks, "a block was lost"
    assert not engine.scheduler.waiting and not engine.scheduler.running
    outputs, metrics = {}, []
    for number, ask in enumerate(workload):
        name = str(number)
        if ask.collect and engine.collects_logits(name):
            outputs[number] = engine.take_logits(name).numpy()
            continue
        output = engine.take_output(name)
        outputs[number] = output
        metrics += [sample.metrics for sample in output.samples]
        for sample in output.samples:
            assert texts.get((name, sample.index), "") == sample.text
    return Played(outputs, seen, sum(m.preemptions for m in metrics), sum(m.cached_tokens for m in metrics))


def said(sample: Sample) -> tuple:
    return sample.token_ids, sample.text, sample.logprobs, sample.finish_reason, sample.stop_reason, sample.error, sample.seed


def check(workload: list[Ask], played: Played) -> None:
    """Everything that came to its end is what it is alone; what was given up is the beginning of it."""
    for number, ask in enumerate(workload):
        found, expected = played.outputs[number], alone(ask)
        if isinstance(found, np.ndarray):
            assert np.array_equal(found, expected, equal_nan=True)
            continue
        for place, sample in enumerate(found.samples):
            if sample.finish_reason != "abort":
                assert said(sample) == said(expected.samples[place])
                continue
            assert ask.end_after is not None, "nobody gave it up"
            if ask.collect:
                continue
            whole, count = expected.samples[place], len(sample.token_ids)
            assert sample.token_ids == whole.token_ids[:count]
            assert sample.logprobs == (None if whole.logprobs is None else whole.logprobs[:count])
            assert sample.text == Letters().decode([*(ask.prompt if ask.params.echo else ()), *sample.token_ids])
        if all(sample.finish_reason in ("stop", "length") for sample in found.samples):
            assert found.prompt_logprobs == expected.prompt_logprobs


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(config=engine_settings(), workload=st.lists(asks(), min_size=1, max_size=7))
def test_every_request_says_what_it_says_alone(kind, depth: int, config: dict, workload: list[Ask]) -> None:
    engine = speaking_engine(kind, depth=depth, sampler=Sampler(Rule()), **config)
    check(workload, play(engine, workload))


def busy(count: int = 10) -> list[Ask]:
    """Prompts that share beginnings, of several priorities, some given up, all kinds of sampling in one batch."""
    return [
        Ask(
            (*PREFIXES[2], 40 + i % 3, *range(60, 60 + i)),
            SamplingParams(**{"max_tokens": 9, "seed": i, "priority": -(i % 3)} | KINDS_OF_SAMPLING[i % 5]), 2 * i,
            7 if i % 4 == 3 else None,
        )
        for i in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("depth", [2, 4])
def test_the_property_sees_stale_answers_preemption_and_known_blocks(depth: int) -> None:
    """Guards it: a tight cache brings all of them about, with several steps under way, and best pairs among rows."""
    engine = speaking_engine(depth=depth, num_blocks=7, prefill_chunk=8, finds_best=True, sampler=Sampler(Rule()))
    played = play(engine, busy())
    check(busy(), played)
    assert played.seen["stale"] > 2 and played.preemptions > 2 and played.cached > 0 and played.seen["best"] > 10
    assert played.seen["behind"] > engine.steps // 2, "the pipeline was hardly ever full"


@pytest.mark.parametrize("setup", [setup for setup in (REFERENCE, *CPU[1:3]) if setup in SETUPS], ids=str)
@pytest.mark.parametrize(("kind", "blocks"), [(DynamicEngine, 11), (StaticEngine, 64)])
def test_a_real_network_says_the_same_bits(setup, kind, blocks: int) -> None:
    happened = check_bits(crowd(), setup, kind, depth=2, num_blocks=blocks, block_size=setup.block_sizes[0], prefix_cache=False)
    assert kind is StaticEngine or happened.preemptions > 0
