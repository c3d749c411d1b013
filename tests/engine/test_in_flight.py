"""Several steps under way, one case at a time: lives, marks, shares of the stages, best pairs, and the end."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from brigade.batch import Wanted
from brigade.engine.engine import Engine
from brigade.engine.request import Request
from brigade.engine.sampling import Sampler, SamplingParams
from brigade.errors import EngineStopped
from tests.engine.fakes import SpeakingModel, counting_engine, run_to_end, speaking_engine
from tests.engine.test_any_depth import GREEDY, KINDS, KINDS_OF_SAMPLING, Ask, Rule, alone, check, play, said, submit


def running(engine: Engine, name: str) -> Request:
    return next(request for request in engine.scheduler.running if request.request_id == name)


@pytest.mark.parametrize("cache", [False, True])
def test_an_answer_for_an_earlier_life_is_ignored_whole(cache: bool) -> None:
    """A prompt is under way when an urgent request takes its slot; that one is given up, and the prompt is sent again. Then comes
    the first answer: it would fit the request as it is now, but its blocks were somebody else's in between."""
    engine = speaking_engine(depth=3, max_batch_size=1, prefix_cache=cache)
    ask = Ask((*range(14, 24),), SamplingParams(max_tokens=3, prompt_logprobs=1, **GREEDY))
    expected = alone(ask)
    submit(engine, ask, "late")
    assert engine.step() == []
    engine.submit([50], SamplingParams(priority=-1, max_tokens=5, **GREEDY), "urgent")
    assert engine.step() == []
    engine.abort("urgent")
    assert [delta.request_id for delta in engine.step()] == ["urgent"], "the third step was sent, and the first one received"
    late = running(engine, "late")
    assert (late.life, late.preemptions, late.computed, late.settled) == (1, 1, 10, 0)
    assert late.output_token_ids == [] and late.prompt_logprobs == {} and late.steps == 0 and engine.pool.num_cached == 0
    assert [sent.owners() for sent in engine.under_way] == [[None], [late]]
    run_to_end(engine)
    engine.check()
    output = engine.take_output("late")
    assert said(output.samples[0]) == said(replace(expected.samples[0], seed=output.samples[0].seed))
    assert output.prompt_logprobs == expected.prompt_logprobs and output.metrics.steps == 3


def test_what_an_aborted_request_has_under_way_is_waited_for_and_dropped() -> None:
    engine = counting_engine(depth=3)
    engine.submit([1] * 40, SamplingParams(max_tokens=4, **GREEDY), "gone")
    engine.step()
    engine.step()
    assert engine.controller.runner.sent == 2 and engine.num_running == 1
    engine.abort("gone")
    assert engine.pool.num_free == engine.pool.num_blocks, "its blocks are free at once"
    (last,) = engine.step()
    output = engine.take_output("gone")
    assert (last.finish_reason, output.finish_reason, output.token_ids) == ("abort", "abort", [])
    assert engine.has_work and engine.step() == [] and not engine.has_work
    assert engine.controller.runner.received == 2


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_of_one_prompt_follow_each_other_without_waiting(kind) -> None:
    engine = counting_engine(kind, depth=4, max_step_tokens=16, prefill_chunk=8)
    engine.submit([1] * 20, SamplingParams(max_tokens=2, **GREEDY), "one")
    for count, computed in enumerate((8, 16, 20), 1):
        assert engine.step() == []
        one = running(engine, "one")
        assert (one.computed, one.settled, len(engine.under_way)) == (computed, 0, count)
    settled = []
    while engine.has_work and not one.output_token_ids:
        engine.step()
        settled.append(one.settled)
    assert settled == [8, 16, 20] and [len(b.spans[0].token_ids) for b in engine.controller.runner.model.batches] == [8, 8, 4]
    run_to_end(engine)
    assert engine.take_output("one").token_ids == [2, 3]


def test_a_block_becomes_known_when_its_step_returns() -> None:
    engine = counting_engine(depth=2, prefill_chunk=8)
    engine.submit([1] * 20, SamplingParams(max_tokens=2, **GREEDY), "one")
    engine.step()
    assert running(engine, "one").computed == 8 and engine.pool.num_cached == 0
    engine.step()
    assert running(engine, "one").computed == 16 and engine.pool.num_cached == 1
    run_to_end(engine)
    engine.check()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("depth", "share"), [(1, 32), (2, 16), (4, 8)])
def test_those_that_decode_are_shared_out_among_the_stages(kind, depth: int, share: int) -> None:
    engine = counting_engine(kind, depth=depth, max_batch_size=32)
    for number in range(32):
        engine.submit([number], SamplingParams(max_tokens=6, **GREEDY), str(number))
    run_to_end(engine)
    spans = [len(batch.spans) for batch in engine.controller.runner.model.batches]
    assert spans == [32] + [share] * (5 * depth)
    assert all(engine.take_output(str(number)).token_ids == [number + 1 + i for i in range(6)] for number in range(32))


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_nobody_waits_longer_than_a_round_though_the_shares_are_uneven(depth: int) -> None:
    engine = counting_engine(depth=depth, max_batch_size=8)
    for number in range(7):
        engine.submit([number], SamplingParams(max_tokens=12, **GREEDY), str(number))
    tokens = Counter()
    for _ in range(12 * depth):
        tokens.update(delta.request_id for delta in engine.step() if delta.token_ids)
        assert max(tokens.values(), default=0) - min((tokens[str(number)] for number in range(7)), default=0) <= 1


@pytest.mark.parametrize("poison", [(SpeakingModel.POISON,), (1, SpeakingModel.POISON)])
def test_a_best_pair_that_is_no_number_ends_its_request_as_a_row_does(poison: tuple[int, ...]) -> None:
    """NaN behind one id and infinity behind two, among requests that want rows."""
    workload = [
        Ask(prompt, SamplingParams(max_tokens=3, seed=1, **kind)) for prompt in ((20,), poison) for kind in KINDS_OF_SAMPLING[1:3]
    ]
    played = play(speaking_engine(depth=2, finds_best=True), workload)
    rows, best = played.outputs[3].samples[0], played.outputs[2].samples[0]
    assert best.finish_reason == "error" and f"the logits for position {len(poison)} are not finite" in best.error
    assert rows.error == best.error and played.seen["best"] >= 4
    check(workload, played)


@pytest.mark.parametrize("more", [{}, {"logprobs": 1}], ids=["best", "row"])
@pytest.mark.parametrize("gone", [0, 1, 2])
def test_what_was_for_somebody_gone_is_not_taken_by_the_next(more: dict, gone: int) -> None:
    """Three are in one step, one of them is given up meanwhile: pairs and rows go to their owners all the same."""
    workload = [Ask((20 + i,), SamplingParams(max_tokens=2, seed=0, **GREEDY, **more)) for i in range(3)]
    engine = speaking_engine(depth=2, finds_best=True)
    for number, ask in enumerate(workload):
        submit(engine, ask, str(number))
    assert engine.step() == []
    engine.abort(str(gone))
    run_to_end(engine)
    for number, ask in enumerate(workload):
        found = engine.take_output(str(number)).samples[0]
        assert said(found) == said(alone(ask).samples[0]) if number != gone else found.token_ids == []


class Own(Sampler):
    pass


def test_whoever_reads_its_row_does_not_ask_for_the_best_alone() -> None:
    plain = SamplingParams(max_tokens=2, **GREEDY)
    others = [
        {"logprobs": 0}, {"temperature": 0.5}, {"min_tokens": 1}, {"frequency_penalty": 0.1}, {"logit_bias": {1: 1.0}},
        {"extra": {"fails_in_flight": 9}},
    ]  # fmt: skip
    workload = [Ask((i,), replace(plain, **more)) for i, more in enumerate([{}, *others], 30)]

    def wanted(**given) -> set[int]:
        engine = speaking_engine(depth=2, max_batch_size=8, **given)
        for ask in workload:
            submit(engine, ask, str(ask.prompt[0]))
        engine.step()
        (sent,) = engine.under_way
        return {span.token_ids[0] for span in sent.batch.spans if span.wanted is Wanted.BEST}

    assert wanted(finds_best=True) == wanted(finds_best=True, sampler=Sampler(Rule())) == {30}
    assert wanted(finds_best=False) == wanted(finds_best=True, sampler=Own()) == set()


# The end.


def test_an_engine_that_is_closed_drops_what_is_under_way() -> None:
    engine = counting_engine(depth=2)
    engine.submit([1], SamplingParams(max_tokens=4, **GREEDY), "one")
    engine.step()
    engine.close()
    engine.close()
    assert (engine.controller.runner.closed, engine.controller.runner.received, len(engine.under_way)) == (1, 0, 0)
    for touch in (engine.step, lambda: engine.submit([1])):
        with pytest.raises(EngineStopped, match="the engine was closed; make another one"):
            touch()
    engine.check()


def test_nothing_is_sent_once_an_answer_could_not_be_had() -> None:
    engine = counting_engine(depth=2)
    engine.submit([1], SamplingParams(max_tokens=4, **GREEDY))
    runner = engine.controller.runner

    def lost():
        raise RuntimeError("rank 3 is gone")

    runner.receive = lost
    engine.step()
    with pytest.raises(RuntimeError, match="rank 3 is gone"):
        engine.step()
    sent = runner.sent
    with pytest.raises(EngineStopped, match="rank 3 is gone"):
        engine.step()
    assert (runner.sent, runner.closed) == (sent, 0)
    engine.close()
    assert runner.closed == 1
