"""What planning a step and taking a request out cost does not depend on how many wait. Planning is measured in calls, which are
the same on any machine."""

from __future__ import annotations

import sys
import time

import pytest

from brigade.engine.dynamic_scheduler import LOOK_AHEAD
from brigade.engine.engine import Engine
from brigade.engine.request import Request
from brigade.engine.sampling import SamplingParams
from tests.engine.fakes import counting_engine

RUNNING, MANY = 8, 10_000
TIGHT = {"block_size": 64, "max_step_tokens": 512, "prefill_chunk": 256}


def submit(engine: Engine, count: int, length: int, first: int = 1, priority: int = 0, max_tokens: int = 60) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens, priority=priority)
    for number in range(count):
        engine.submit([first, number % 97, number // 97 % 97] + [2] * (length - 3), params)


def no_free_block(waiting: int) -> Engine:
    engine = counting_engine(num_blocks=RUNNING, max_batch_size=2 * RUNNING, **TIGHT)
    submit(engine, RUNNING, 3)
    submit(engine, waiting, 40)
    return engine


def no_slot(waiting: int) -> Engine:
    engine = counting_engine(num_blocks=1000, max_batch_size=RUNNING, **TIGHT)
    submit(engine, RUNNING, 3)
    submit(engine, waiting, 40)
    return engine


def too_few_blocks(waiting: int) -> Engine:
    """Two are free; those that wait need four."""
    engine = counting_engine(num_blocks=RUNNING + 2, max_batch_size=2 * RUNNING, **TIGHT)
    submit(engine, RUNNING, 3)
    submit(engine, waiting, 250, first=5)
    return engine


def too_small_a_victim(waiting: int) -> Engine:
    """One running request may be pushed out, but its only block would not do."""
    engine = counting_engine(num_blocks=RUNNING, max_batch_size=2 * RUNNING, **TIGHT)
    submit(engine, RUNNING - 1, 3, priority=-1)
    submit(engine, 1, 3, priority=1)
    submit(engine, waiting, 250, first=5)
    return engine


def long_prompts(waiting: int) -> Engine:
    """Those that wait are long, those under way use up the share of the long ones, and half of the step is the short one's."""
    engine = counting_engine(num_blocks=1000, max_batch_size=2 * RUNNING, **TIGHT | {"max_step_tokens": 64, "prefill_chunk": 32})
    submit(engine, RUNNING, 300)
    submit(engine, waiting, 200, first=5)
    return engine


def known_prompts(waiting: int) -> Engine:
    """25 blocks of every prompt are known and held, but two free ones are too few for the rest."""
    engine = counting_engine(num_blocks=34, max_batch_size=2 * RUNNING, **TIGHT | {"block_size": 8})
    engine.submit([1] * 200, SamplingParams(temperature=0.0, max_tokens=50))
    engine.step()
    params = SamplingParams(temperature=0.0, max_tokens=1)
    for _ in range(waiting):
        engine.submit([1] * 200 + [2] * 71, params)
    return engine


def calls_of_a_plan(engine: Engine) -> int:
    """Of Python and of C functions, in planning a step; a short prompt has come last of all."""
    engine.step()
    engine.step()
    submit(engine, 1, 3, first=9, max_tokens=1)
    calls = 0

    def count(frame, event: str, arg) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        engine.scheduler.schedule()
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("line", [no_free_block, no_slot, too_few_blocks, too_small_a_victim, long_prompts, known_prompts])
def test_ten_thousand_waiting_cost_what_a_hundred_cost(line) -> None:
    few, many = (calls_of_a_plan(line(waiting)) for waiting in (100, MANY))
    assert many <= 1.1 * few + 20
    assert many < 100 * (RUNNING + LOOK_AHEAD)


def seconds_of_a_removal(waiting: int) -> float:
    """From the middle of the queue, the best of five times twenty."""
    scheduler = counting_engine().scheduler
    params = SamplingParams()
    everyone = [Request(str(number), 0, (0, number), params, 0, [1], (), 0.0, 16) for number in range(waiting)]
    for request in everyone:
        scheduler.add(request)
    times = []
    for start in range(waiting // 2, waiting // 2 + 100, 20):
        begun = time.perf_counter()
        for request in everyone[start : start + 20]:
            scheduler.remove(request)
        times.append((time.perf_counter() - begun) / 20)
    assert len(scheduler.waiting) == waiting - 100
    return min(times)


@pytest.mark.alone
def test_an_abort_does_not_walk_the_queue() -> None:
    """A walk over 20,000 takes 100 times as long as one over 200; bisection takes twice as many steps."""
    assert seconds_of_a_removal(20_000) < 10 * seconds_of_a_removal(200)
