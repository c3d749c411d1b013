"""Who runs next: order, fairness, refusal, and what an abort frees."""

from __future__ import annotations

import pytest

from brigade.batch import Wanted
from brigade.engine.config import EngineConfig
from brigade.engine.engine import StaticEngine
from brigade.engine.sampling import SamplingParams
from brigade.errors import ConfigError, RequestError
from tests.engine.fakes import counting_engine, run_to_end

GREEDY = {"temperature": 0.0}


def finishing_order(engine) -> list[str]:
    return [delta.request_id for delta in run_to_end(engine) if delta.finish_reason]


def test_first_come_first_served_within_a_priority() -> None:
    engine = counting_engine(max_batch_size=1, max_step_tokens=8)
    for name, priority in [("a", 0), ("b", 0), ("urgent", -1), ("later", 1)]:
        engine.submit([1, 2], SamplingParams(max_tokens=2, priority=priority, **GREEDY), request_id=name)
    assert finishing_order(engine) == ["urgent", "a", "b", "later"]


def test_an_urgent_request_takes_a_running_slot() -> None:
    engine = counting_engine(max_batch_size=1)
    engine.submit([1], SamplingParams(max_tokens=30, **GREEDY), "slow")
    engine.step()
    engine.submit([1], SamplingParams(max_tokens=2, priority=-5, **GREEDY), "urgent")
    assert finishing_order(engine) == ["urgent", "slow"]
    assert engine.take_output("slow").token_ids == list(range(2, 32))


def test_a_long_prompt_does_not_block_the_line() -> None:
    engine = counting_engine(max_batch_size=8, max_step_tokens=32, prefill_chunk=16)
    engine.submit([1] * 400, SamplingParams(max_tokens=2, **GREEDY), "long 1")
    engine.submit([1] * 400, SamplingParams(max_tokens=2, **GREEDY), "long 2")
    engine.submit([1] * 5, SamplingParams(max_tokens=2, **GREEDY), "short")
    first = engine.step()
    assert [delta.request_id for delta in first] == ["short"], "it has its first token after one step"


def test_chunks_and_decodes_share_a_step() -> None:
    engine = counting_engine(max_step_tokens=16, prefill_chunk=8)
    engine.submit([1], SamplingParams(max_tokens=20, **GREEDY), "decoding")
    engine.step()
    engine.submit([1] * 30, SamplingParams(max_tokens=2, **GREEDY), "prompt")
    engine.step()
    batch = engine.controller.model.batches[-1]
    assert [len(span.token_ids) for span in batch.spans] == [1, 8]
    assert [span.wanted for span in batch.spans] == [Wanted.LAST, Wanted.NONE]


def test_a_step_stays_within_its_budget() -> None:
    engine = counting_engine(max_batch_size=4, max_step_tokens=20, prefill_chunk=16)
    for i in range(10):
        engine.submit([1] * (5 + 9 * i), SamplingParams(max_tokens=5, **GREEDY))
    run_to_end(engine)
    assert max(batch.num_tokens for batch in engine.controller.model.batches) <= 20
    assert max(len(batch.spans) for batch in engine.controller.model.batches) <= 4


@pytest.mark.parametrize("when", ["waiting", "prefilling", "decoding"])
def test_abort_frees_its_blocks_at_once(when: str) -> None:
    engine = counting_engine(num_blocks=8, max_batch_size=1, prefix_cache=False)
    if when == "waiting":
        engine.submit([1], SamplingParams(max_tokens=50, **GREEDY), "other")
        engine.step()
    free = engine.pool.num_free
    engine.submit([1] * 40, SamplingParams(max_tokens=20, **GREEDY), "gone")
    for _ in range({"waiting": 0, "prefilling": 1, "decoding": 6}[when]):
        engine.step()
    engine.abort("gone")
    engine.check()
    assert engine.pool.num_free == free
    engine.step()
    assert engine.take_output("gone").finish_reason == "abort"
    engine.abort("other") if when == "waiting" else None


def test_everyone_advances_with_room_for_one() -> None:
    engine = counting_engine(num_blocks=7, max_batch_size=4)
    names = [engine.submit([i] * 20, SamplingParams(max_tokens=30, **GREEDY)) for i in range(6)]
    run_to_end(engine)
    for i, name in enumerate(names):
        assert engine.take_output(name).token_ids == [(i + 1 + k) % 97 for k in range(30)]
    assert engine.pool.num_free == 7


def test_static_groups_run_to_their_common_end() -> None:
    engine = counting_engine(StaticEngine, max_batch_size=2)
    for name, tokens in [("a", 2), ("b", 9), ("c", 1)]:
        engine.submit([1], SamplingParams(max_tokens=tokens, **GREEDY), name)
    order = [(delta.request_id, engine.steps) for _ in range(12) for delta in engine.step() if delta.finish_reason]
    assert order == [("a", 2), ("b", 9), ("c", 10)], "c waits for b although a left early"


@pytest.mark.parametrize(
    ("prompt", "params", "words"),
    [
        ([], {}, "0 tokens"),
        ([1] * 600, {}, "600 prompt tokens"),
        ([1] * 500, {"max_tokens": 100}, "limit of 512"),
        ([97], {}, "token id 97"),
        ([-1], {}, "token id -1"),
        ([1] * 100, {"max_tokens": 300}, "need 50 KV blocks"),
        ([1], {"stop": "x"}, "no tokenizer"),
        ("text", {}, "no tokenizer"),
    ],
)
def test_impossible_requests_are_refused_at_submission(prompt, params, words) -> None:
    engine = counting_engine(num_blocks=40)
    with pytest.raises(RequestError, match=words) as refused:
        engine.submit(prompt, SamplingParams(**params))
    assert "\n" not in str(refused.value)
    assert not engine.has_work


@pytest.mark.parametrize(
    "settings",
    [{"block_size": 0}, {"max_batch_size": -1}, {"kv_blocks": 1.5}, {"kv_blocks": 4, "kv_memory": 100}, {"max_step_tokens": 4}],
)
def test_settings_that_cannot_work_are_refused(settings) -> None:
    with pytest.raises(ConfigError):
        EngineConfig(**settings)
