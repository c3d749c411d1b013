"""Who runs next: order, fairness, who makes room for whom, refusal, and what an abort frees."""

from __future__ import annotations

import pytest

from brigade.batch import Wanted
from brigade.engine.config import EngineConfig
from brigade.engine.dynamic_scheduler import BYPASS_LIMIT, LOOK_AHEAD
from brigade.engine.engine import DynamicEngine, StaticEngine
from brigade.engine.request import Request
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


def test_a_short_prompt_passes_any_number_of_long_ones() -> None:
    engine = counting_engine(num_blocks=400, max_batch_size=8, max_step_tokens=32, prefill_chunk=16)
    for _ in range(3 * LOOK_AHEAD):
        engine.submit([1] * 400, SamplingParams(max_tokens=2, **GREEDY))
    engine.submit([1] * 5, SamplingParams(max_tokens=2, **GREEDY), "short")
    assert [delta.request_id for delta in engine.step()] == ["short"]


def test_a_long_prompt_has_the_whole_budget_while_nobody_could_join() -> None:
    engine = counting_engine(max_batch_size=1, max_step_tokens=16, prefill_chunk=16)
    engine.submit([1] * 64, SamplingParams(max_tokens=1, **GREEDY), "long")
    engine.submit([1] * 5, SamplingParams(max_tokens=1, **GREEDY), "short")
    engine.step()
    engine.step()
    assert [batch.num_tokens for batch in engine.controller.runner.model.batches][1] == 16, "the only slot is taken"


@pytest.mark.parametrize("kind", [DynamicEngine, StaticEngine])
def test_one_token_a_step_is_enough(kind) -> None:
    """Half of a budget of one token for the long prompts must not be none."""
    engine = counting_engine(kind, max_batch_size=1, max_step_tokens=1, prefill_chunk=1)
    engine.submit([1] * 20, SamplingParams(max_tokens=2, **GREEDY), "long")
    engine.step()
    engine.submit([1], SamplingParams(max_tokens=2, **GREEDY), "short")
    assert finishing_order(engine) == ["long", "short"]


def test_chunks_and_decodes_share_a_step() -> None:
    engine = counting_engine(max_step_tokens=16, prefill_chunk=8)
    engine.submit([1], SamplingParams(max_tokens=20, **GREEDY), "decoding")
    engine.step()
    engine.submit([1] * 30, SamplingParams(max_tokens=2, **GREEDY), "prompt")
    engine.step()
    batch = engine.controller.runner.model.batches[-1]
    assert [len(span.token_ids) for span in batch.spans] == [1, 8]
    assert [span.wanted for span in batch.spans] == [Wanted.LAST, Wanted.NONE]


@pytest.mark.parametrize("kind", [DynamicEngine, StaticEngine])
def test_a_step_stays_within_its_budget(kind) -> None:
    engine = counting_engine(kind, max_batch_size=4, max_step_tokens=20, prefill_chunk=16)
    for i in range(10):
        engine.submit([1] * (5 + 9 * i), SamplingParams(max_tokens=5, **GREEDY))
    run_to_end(engine)
    assert max(batch.num_tokens for batch in engine.controller.runner.model.batches) <= 20
    assert max(len(batch.spans) for batch in engine.controller.runner.model.batches) <= 4
    assert max(len(span.token_ids) for batch in engine.controller.runner.model.batches for span in batch.spans) <= 16


def submit(engine, name: str, prompt: list[int], priority: int = 0, max_tokens: int = 2) -> None:
    engine.submit(prompt, SamplingParams(max_tokens=max_tokens, priority=priority, **GREEDY), name)


def alive(engine) -> dict[str, Request]:
    return {request.request_id: request for request in (*engine.scheduler.running, *engine.scheduler.waiting)}


def preemptions(engine) -> dict[str, int]:
    return {name: request.preemptions for name, request in sorted(alive(engine).items())}


def test_nobody_is_pushed_out_where_the_newcomer_does_not_fit_even_so() -> None:
    engine = counting_engine(num_blocks=8, prefix_cache=False, prefill_chunk=64, max_step_tokens=64)
    submit(engine, "urgent", [1] * 50, priority=-1, max_tokens=6)
    submit(engine, "late", [2] * 7, priority=1, max_tokens=2)
    engine.step()
    assert engine.pool.num_free == 0
    submit(engine, "newcomer", [3] * 16)  # two blocks, and the late one has but one to give
    assert finishing_order(engine) == ["late", "urgent", "newcomer"]
    assert all(engine.take_output(name).metrics.preemptions == 0 for name in ("urgent", "late", "newcomer"))


def test_all_that_a_victim_shares_with_others_is_counted_as_theirs() -> None:
    """The victim holds six blocks, but gives back only the two of its own: too few for the newcomer's chunk of three."""
    engine = counting_engine(num_blocks=8, prefill_chunk=64, max_step_tokens=64)
    submit(engine, "first", [1] * 32 + [2] * 4, priority=-1, max_tokens=12)
    engine.step()
    submit(engine, "sharing", [1] * 32 + [3] * 9, priority=1, max_tokens=5)
    engine.step()
    assert engine.pool.num_free == 1 and alive(engine)["sharing"].cached_tokens == 32
    submit(engine, "newcomer", [4] * 32, max_tokens=2)
    engine.step()
    assert preemptions(engine) == {"first": 0, "newcomer": 0, "sharing": 0}
    assert [request.request_id for request in engine.scheduler.running] == ["first", "sharing"]


def test_what_two_victims_share_is_free_when_both_go() -> None:
    engine = counting_engine(num_blocks=8, prefill_chunk=64, max_step_tokens=64)
    submit(engine, "one", [1] * 32 + [2] * 4, priority=1, max_tokens=12)
    engine.step()
    submit(engine, "two", [1] * 32 + [3] * 9, priority=1, max_tokens=3)
    engine.step()
    submit(engine, "newcomer", [4] * 40, max_tokens=8)
    engine.step()
    assert preemptions(engine) == {"newcomer": 0, "one": 1, "two": 1}
    assert [request.request_id for request in engine.scheduler.running] == ["newcomer"]
    run_to_end(engine)
    engine.check()


def test_a_newcomers_own_known_blocks_are_not_counted_as_free() -> None:
    """The victim's blocks are those that the newcomer goes on with: pushing it out would free a single one."""
    engine = counting_engine(num_blocks=6, prefill_chunk=64, max_step_tokens=64)
    submit(engine, "urgent", [9] * 7, priority=-1, max_tokens=2)
    submit(engine, "late", [1] * 33, priority=1, max_tokens=7)
    engine.step()
    assert engine.pool.num_free == 0
    submit(engine, "newcomer", [1] * 32 + [2] * 10, max_tokens=2)
    engine.step()
    assert preemptions(engine)["late"] == 0
    run_to_end(engine)
    assert engine.take_output("newcomer").metrics.cached_tokens == 32


def line_behind_one_free_block(wide: int):
    """One request runs for 60 steps in its own block; so many wait that need two."""
    engine = counting_engine(
        num_blocks=2, block_size=64, max_batch_size=2, max_step_tokens=128, prefill_chunk=128, prefix_cache=False
    )
    submit(engine, "running", [1], max_tokens=60)
    engine.step()
    for number in range(wide):
        submit(engine, f"wide {number}", [2] * 65)
    return engine


@pytest.mark.parametrize(("wide", "passes"), [(LOOK_AHEAD - 1, True), (LOOK_AHEAD, False)])
def test_a_step_looks_at_none_behind_so_many_without_blocks(wide: int, passes: bool) -> None:
    engine = line_behind_one_free_block(wide)
    submit(engine, "narrow", [3] * 4)
    engine.step()
    assert ("narrow" in [request.request_id for request in engine.scheduler.running]) is passes


def test_a_request_is_passed_by_so_often_and_no_more() -> None:
    engine = line_behind_one_free_block(1)
    for number in range(BYPASS_LIMIT + 5):
        submit(engine, f"narrow {number}", [3], max_tokens=1)
    order = finishing_order(engine)
    first, rest = order[:BYPASS_LIMIT], order[BYPASS_LIMIT:]
    assert first == [f"narrow {number}" for number in range(BYPASS_LIMIT)]
    assert rest == ["running", "wide 0", *(f"narrow {number}" for number in range(BYPASS_LIMIT, BYPASS_LIMIT + 5))]


def test_one_step_does_not_pass_a_request_too_often_either() -> None:
    """Room for several newcomers at once, and one before them that has been passed one time less than is allowed."""
    engine = counting_engine(num_blocks=8, max_batch_size=6, max_step_tokens=128, prefill_chunk=64, prefix_cache=False)
    submit(engine, "running", [1] * 8, max_tokens=25)  # 4 of the 8 blocks in the end
    engine.step()
    submit(engine, "wide", [2] * 60, max_tokens=1)  # 8 blocks: not while another runs
    engine.scheduler.waiting.head.bypassed = BYPASS_LIMIT - 1
    for number in range(4):
        submit(engine, f"narrow {number}", [3], max_tokens=1)
    order = finishing_order(engine)
    assert order.index("narrow 0") < order.index("wide") < order.index("narrow 1"), order


def test_a_long_prompt_that_was_passed_so_often_is_passed_by_no_more_where_its_share_is_taken() -> None:
    """By another long one, more urgent: who came later may not take the blocks that it waits for."""
    engine = counting_engine(num_blocks=64, max_batch_size=4, max_step_tokens=32, prefill_chunk=32, prefix_cache=False)
    engine.submit([1] * 200, SamplingParams(max_tokens=1, priority=-1, **GREEDY), "urgent")
    engine.step()
    submit(engine, "wide", [2] * 200, max_tokens=1)
    engine.scheduler.waiting.head.bypassed = BYPASS_LIMIT
    submit(engine, "narrow", [3], max_tokens=1)
    engine.step()
    assert [one.request_id for one in engine.scheduler.running] == ["urgent"]
    assert sorted(finishing_order(engine)) == ["narrow", "urgent", "wide"]


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


def planned(engine):
    for number in range(2):
        submit(engine, f"{number}", [number] * 8, max_tokens=4)
    engine.step()
    return engine.scheduler.send(engine.scheduler.schedule()), *engine.scheduler.running


@pytest.mark.parametrize("kind", [DynamicEngine, StaticEngine])
def test_who_is_removed_while_its_step_is_under_way_is_left_alone(kind) -> None:
    engine = counting_engine(kind)
    sent, gone, stays = planned(engine)
    engine.scheduler.remove(gone)
    engine.scheduler.remove(gone)
    assert sent.owners() == [None, stays]
    engine.scheduler.advance(sent.batch, sent.owners())
    assert (gone.computed, gone.settled, gone.steps, gone.blocks) == (0, 0, 1, [])
    assert (stays.computed, stays.settled, stays.steps) == (9, 9, 2)
    engine.check()
    engine.scheduler.remove(gone)
    engine.scheduler.remove(stays)
    assert engine.pool.num_free == engine.pool.num_blocks and not engine.scheduler.has_work


def test_what_a_failed_step_computed_does_not_become_known() -> None:
    engine = counting_engine()
    submit(engine, "fails", [5] * 8)
    sent = engine.scheduler.send(engine.scheduler.schedule())
    (failed,) = engine.scheduler.running
    failed.finish_reason = "error"
    engine.scheduler.advance(sent.batch, sent.owners())
    engine.scheduler.remove(failed)
    assert engine.pool.num_cached == 0 and engine.pool.num_free == engine.pool.num_blocks


def test_static_prompts_come_in_chunks_before_the_group_decodes() -> None:
    engine = counting_engine(StaticEngine, max_batch_size=3, max_step_tokens=20, prefill_chunk=16)
    for name, length in [("a", 24), ("b", 9), ("c", 1)]:
        submit(engine, name, [1] * length, max_tokens=3)
    spans = []
    while engine.has_work:
        engine.step()
        spans.append([len(span.token_ids) for span in engine.controller.runner.model.batches[-1].spans])
    assert spans == [[16, 4], [8, 5, 1], [1, 1, 1], [1, 1, 1]]
    assert all(engine.take_output(name).token_ids == [2, 3, 4] for name in "abc")


def test_static_groups_run_to_their_common_end() -> None:
    engine = counting_engine(StaticEngine, max_batch_size=2)
    for name, tokens in [("a", 2), ("b", 9), ("c", 1)]:
        engine.submit([1], SamplingParams(max_tokens=tokens, **GREEDY), name)
    order = [(delta.request_id, engine.steps) for _ in range(12) for delta in engine.step() if delta.finish_reason]
    assert order == [("a", 2), ("b", 9), ("c", 10)], "c waits for b although a left early"


@pytest.mark.parametrize("kind", [DynamicEngine, StaticEngine])
def test_a_prompt_without_a_token_behind_it_has_a_block_for_its_last_position(kind) -> None:
    """Its logits are asked for, so all of it is computed: nine positions are two blocks of eight."""
    params = SamplingParams(max_tokens=1)
    engine = counting_engine(kind, num_blocks=2)
    engine.submit(range(1, 10), params, "fits", collect_logits=True)
    run_to_end(engine)
    assert engine.take_logits("fits").argmax(1).tolist() == list(range(2, 11))
    with pytest.raises(RequestError, match="need 2 KV blocks of 8 positions; the cache has 1"):
        counting_engine(kind, num_blocks=1).submit(range(1, 10), params, collect_logits=True)


@pytest.mark.parametrize(
    ("prompt", "params", "words"),
    [
        ([], {}, "0 tokens"),
        ([1] * 600, {}, "600 prompt tokens"),
        ([1] * 500, {"max_tokens": 100}, "limit of 321 positions; .* or raise kv_memory or kv_blocks"),
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
