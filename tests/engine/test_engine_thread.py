"""The engine's thread: many callers at once, each with its own end, and an end for everyone when the engine has one."""

from __future__ import annotations

import gc
import itertools
import threading
import time
from queue import SimpleQueue

import pytest
import torch

from brigade.engine import engine_thread
from brigade.engine.engine_thread import EngineThread, Logits
from brigade.engine.outputs import Delta, RequestOutput
from brigade.engine.sampling import SamplingParams
from brigade.errors import EngineStopped, RequestError
from tests.engine.fakes import counting_engine

GREEDY = SamplingParams(temperature=0.0, max_tokens=6)
BOUND = 10.0  # seconds after which something counts as hanging


@pytest.fixture
def engine():
    return counting_engine()


@pytest.fixture
def thread(engine):
    made = EngineThread(engine)
    yield made
    made.close()


class Blocked:
    """A model that waits inside its step until it is let go, and may then raise."""

    def __init__(self, inner, failure: Exception | None = None) -> None:
        self.inner, self.failure = inner, failure
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self, batch, cache):
        self.begun.set()
        assert self.go_on.wait(BOUND)
        if self.failure is not None:
            raise self.failure
        return self.inner(batch, cache)


def block(engine, failure: Exception | None = None) -> Blocked:
    engine.controller.runner.model = Blocked(engine.controller.runner.model, failure)
    return engine.controller.runner.model


def ask(thread: EngineThread, *prompts: list[int], params=GREEDY, deltas=False, **settings) -> tuple[list[str], SimpleQueue]:
    inbox: SimpleQueue = SimpleQueue()
    prepared = [thread.engine.prepare(prompt, params, **settings) for prompt in prompts]
    return thread.submit(prepared, inbox.put, deltas), inbox


def test_deltas_come_in_order_and_the_whole_output_last(thread: EngineThread) -> None:
    (name,), inbox = ask(thread, [3], deltas=True)
    said = [inbox.get(timeout=BOUND) for _ in range(7)]
    assert all(isinstance(one, Delta) for one in said[:-1]) and isinstance(said[-1], RequestOutput)
    assert [token for delta in said[:-1] for token in delta.token_ids] == said[-1].token_ids == [4, 5, 6, 7, 8, 9]
    assert {one.request_id for one in said} == {name}


def test_no_delta_of_any_sample_is_left_out_where_several_end_in_one_step(thread: EngineThread) -> None:
    _, inbox = ask(thread, [3], params=SamplingParams(temperature=0.0, max_tokens=4, n=3), deltas=True)
    said: list = []
    while not said or isinstance(said[-1], Delta):
        said.append(inbox.get(timeout=BOUND))
    for sample in said[-1].samples:
        mine = [delta for delta in said[:-1] if delta.index == sample.index]
        assert [token for delta in mine for token in delta.token_ids] == sample.token_ids == [4, 5, 6, 7]
        assert [delta.finish_reason for delta in mine] == [None, None, None, "length"]
    assert thread.wait_idle(BOUND) and inbox.empty()


def test_whoever_wants_no_deltas_hears_only_the_end(thread: EngineThread) -> None:
    _, inbox = ask(thread, [3], [30])
    assert sorted(inbox.get(timeout=BOUND).token_ids[0] for _ in range(2)) == [4, 31]
    assert thread.wait_idle(BOUND) and inbox.empty()


def test_logits_come_as_a_tensor(thread: EngineThread) -> None:
    (name,), inbox = ask(thread, [3, 4], params=SamplingParams(max_tokens=1), collect_logits=True)
    answer = inbox.get(timeout=BOUND)
    assert isinstance(answer, Logits) and answer.request_id == name
    assert answer.logits_LV.argmax(1).tolist() == [4, 5]


def test_many_threads_share_one_engine_and_each_gets_its_own(thread: EngineThread) -> None:
    wrong, names = [], []

    def call(first: int) -> None:
        for i in range(20):
            ids, inbox = ask(thread, [first + i], [first + i + 40])
            names.extend(ids)
            got = {output.request_id: output.token_ids[0] for output in (inbox.get(timeout=BOUND), inbox.get(timeout=BOUND))}
            wrong.extend([got] if got != {ids[0]: first + i + 1, ids[1]: first + i + 41} else [])

    callers = [threading.Thread(target=call, args=(first,)) for first in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(BOUND)
    assert not wrong and len(set(names)) == len(names) == 8 * 40
    assert max(len(batch.spans) for batch in thread.engine.controller.runner.model.batches) > 2  # they did join one batch
    thread.engine.check()


def test_an_abort_ends_the_request_and_its_reader_hears_no_more(thread: EngineThread, engine) -> None:
    model = block(engine)
    ids, inbox = ask(thread, [1], params=SamplingParams(temperature=0.0, max_tokens=400), deltas=True)
    others, other_inbox = ask(thread, [50])
    assert model.begun.wait(BOUND)
    thread.abort(ids)
    model.go_on.set()
    assert other_inbox.get(timeout=BOUND).token_ids[0] == 51
    assert thread.wait_idle(BOUND) and inbox.empty() and not engine.has_work
    thread.abort(ids + others + ["never there"])  # nothing left to end
    engine.check()


def test_a_reader_that_raises_is_an_abort_of_its_own_request(thread: EngineThread, engine) -> None:
    def gone(_) -> None:
        raise RuntimeError("Event loop is closed")

    thread.submit([engine.prepare([1], SamplingParams(temperature=0.0, max_tokens=400))], gone)
    _, inbox = ask(thread, [50])
    assert inbox.get(timeout=BOUND).token_ids == [51, 52, 53, 54, 55, 56]
    assert thread.wait_idle(BOUND) and engine.num_running == 0 and engine.steps < 20 and thread.is_open


@pytest.mark.parametrize("failure", [RuntimeError("the device is lost"), MemoryError("no room")])
def test_when_the_engine_fails_everyone_hears_it(thread: EngineThread, engine, failure: Exception) -> None:
    model = block(engine, failure)
    _, running = ask(thread, [1], deltas=True)
    assert model.begun.wait(BOUND)
    _, queued = ask(thread, [2])  # its order is not taken before the step ends
    model.go_on.set()
    for inbox in (running, queued):
        stopped = inbox.get(timeout=BOUND)
        assert isinstance(stopped, EngineStopped) and stopped.__cause__ is failure and str(failure) in str(stopped)
    assert not thread.is_open and thread.wait_idle(BOUND)
    with pytest.raises(EngineStopped, match=str(failure)):
        ask(thread, [3])


@pytest.mark.alone
def test_close_ends_every_waiting_call_though_a_step_hangs(thread: EngineThread, engine, monkeypatch) -> None:
    monkeypatch.setattr("brigade.engine.engine_thread.PATIENCE", 0.2)
    model = block(engine)
    _, running = ask(thread, [1])
    assert model.begun.wait(BOUND)
    _, queued = ask(thread, [2])
    begun = time.monotonic()
    thread.close()
    assert time.monotonic() - begun < 2
    for inbox in (running, queued):
        assert isinstance(inbox.get_nowait(), EngineStopped)
    with pytest.raises(EngineStopped, match="closed"):
        ask(thread, [3])
    thread.close()
    model.go_on.set()


def test_the_queue_is_bounded_and_says_so(engine) -> None:
    engine = counting_engine(max_waiting=3, max_batch_size=1)
    model = block(engine)
    thread = EngineThread(engine)
    _, first = ask(thread, [1])
    assert model.begun.wait(BOUND)  # it runs: nobody waits
    _, waiting = ask(thread, [2], [3])
    with pytest.raises(RequestError, match="2 requests wait and 2 more came; max_waiting is 3"):
        ask(thread, [4], [5])  # all or none
    with pytest.raises(RequestError, match="max_waiting is 3"):
        ask(thread, [4], params=SamplingParams(temperature=0.0, n=2))  # each sample is a request
    _, last = ask(thread, [6])
    model.go_on.set()
    assert [inbox.get(timeout=BOUND).token_ids[0] for inbox in (first, waiting, waiting, last)] == [2, 3, 4, 7]
    thread.close()
    with pytest.raises(RequestError, match="max_waiting is 1"):  # the same without a thread
        own = counting_engine(max_waiting=1)
        own.submit([1], GREEDY)
        own.submit([2], GREEDY)


def test_a_submission_that_is_interrupted_leaves_nothing_behind(monkeypatch) -> None:
    """Ctrl-C in the middle of many prompts: neither requests that nobody waits for, nor places that nobody has."""
    engine = counting_engine(max_waiting=5)
    thread = EngineThread(engine)
    work, puts = thread._work, itertools.count(1)

    class Interrupted(SimpleQueue):
        def put(self, order) -> None:
            if next(puts) == 3:
                raise KeyboardInterrupt
            super().put(order)

    work._orders = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        ask(thread, [1], [2], [3], [4], [5])
    assert thread.wait_idle(BOUND) and not work._readers
    _, inbox = ask(thread, [1], [2], [3], [4], [5])
    assert sorted(inbox.get(timeout=BOUND).token_ids[0] for _ in range(5)) == [2, 3, 4, 5, 6]
    thread.close()


def test_close_while_the_thread_begins_ends_whoever_asked_for_it(engine, monkeypatch) -> None:
    """Somebody closes after the thread has begun, and before the one who made it goes on."""
    thread, start, raised = EngineThread(engine), threading.Thread.start, []

    def close() -> None:
        try:
            thread.close()
        except BaseException as error:
            raised.append(error)

    def starting(made: threading.Thread) -> None:
        start(made)
        if made.name == "brigade-engine":
            while engine.owner is None:
                time.sleep(0.001)
            other = threading.Thread(target=close)
            start(other)
            other.join(BOUND)

    monkeypatch.setattr(threading.Thread, "start", starting)
    with pytest.raises(EngineStopped):
        ask(thread, [1])[1].get(timeout=BOUND)
        thread._work.check_open()
    assert raised == []


def test_an_interrupt_while_the_thread_begins_makes_no_second_one(thread: EngineThread, monkeypatch) -> None:
    start = threading.Thread.start

    def starting(made: threading.Thread) -> None:
        start(made)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", starting)
        with pytest.raises(KeyboardInterrupt):
            ask(thread, [1])
    for _ in range(20):
        assert ask(thread, [50])[1].get(timeout=BOUND).token_ids[0] == 51
    assert thread.is_open


def test_who_orders_without_end_stops_nobodys_tokens(engine) -> None:
    thread = EngineThread(engine)
    taken, taken_at_the_end, over = itertools.count(), [], threading.Event()

    class Endless(SimpleQueue):
        """Whoever takes an order finds another one behind it."""

        def get(self):
            found = super().get()
            if next(taken) < 5000:
                self.put(engine_thread._Abort("nobody"))
            return found

    def read(said) -> None:
        taken_at_the_end.append(next(taken))
        over.set()

    thread._work._orders = Endless()
    thread.submit([engine.prepare([1], GREEDY)], read, deltas=False)
    assert over.wait(BOUND) and taken_at_the_end[0] < 100
    thread.close()


def test_nobody_else_may_touch_an_engine_that_a_thread_steps(thread: EngineThread, engine) -> None:
    _, inbox = ask(thread, [1])
    inbox.get(timeout=BOUND)
    for touch in (engine.step, lambda: engine.submit([1], GREEDY), lambda: engine.abort("r-0"), lambda: engine.take_output("r-0")):
        with pytest.raises(RuntimeError, match="a thread of its own steps this engine"):
            touch()
    assert thread.is_open


def test_one_that_nobody_holds_closes_itself() -> None:
    thread = EngineThread(counting_engine())
    _, inbox = ask(thread, [1])
    inbox.get(timeout=BOUND)
    worker = next(t for t in threading.enumerate() if t.name == "brigade-engine" and t.ident == thread.engine.owner)
    del thread
    gc.collect()
    worker.join(BOUND)
    assert not worker.is_alive()


def test_a_request_that_cannot_be_added_ends_alone(thread: EngineThread, engine, monkeypatch) -> None:
    real = engine._open_text

    def open_text(request, prompt) -> None:
        if request.prompt_token_ids[0] == 13:
            raise KeyError("no such piece")
        real(request, prompt)

    monkeypatch.setattr(engine, "_open_text", open_text)
    _, inbox = ask(thread, [13], [50])
    outputs = sorted((inbox.get(timeout=BOUND) for _ in range(2)), key=lambda output: output.prompt_token_ids)
    assert outputs[0].finish_reason == "error" and "no such piece" in outputs[0].error and not outputs[0].token_ids
    assert outputs[1].token_ids[0] == 51 and outputs[1].error is None
    engine.check()


def test_an_answer_that_cannot_be_made_is_the_requests_own_error(thread: EngineThread, engine, monkeypatch) -> None:
    def take_logits(name: str):
        raise MemoryError("no room for 16 GB")

    monkeypatch.setattr(engine, "take_logits", take_logits)
    _, wanting = ask(thread, [3, 4], params=SamplingParams(max_tokens=1), collect_logits=True)
    failed = wanting.get(timeout=BOUND)
    assert failed.finish_reason == "error" and failed.error == "MemoryError: no room for 16 GB"
    _, other = ask(thread, [50])
    assert other.get(timeout=BOUND).token_ids[0] == 51 and thread.is_open


def test_an_error_whose_text_raises_still_ends_what_it_ends(thread: EngineThread, engine) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

    def sample(logits, rows):
        raise Mute

    real, engine.controller.sampler.sample = engine.controller.sampler.sample, sample
    _, inbox = ask(thread, [1])
    assert inbox.get(timeout=BOUND).error == "Mute"
    engine.controller.sampler.sample = real
    block(engine, Mute()).go_on.set()
    _, inbox = ask(thread, [1])
    assert "(Mute)" in str(inbox.get(timeout=BOUND)) and not thread.is_open


def test_a_thread_that_cannot_start_is_tried_again(thread: EngineThread, monkeypatch) -> None:
    def start(_) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="can't start"):
            ask(thread, [1])
    _, inbox = ask(thread, [50])
    assert inbox.get(timeout=BOUND).token_ids[0] == 51


def test_torch_is_let_alone_between_requests(thread: EngineThread) -> None:
    """The engine computes in inference mode; the caller's own tensors still learn."""
    _, inbox = ask(thread, [1])
    inbox.get(timeout=BOUND)
    weight = torch.ones(1, requires_grad=True)
    (weight * 2).backward()
    assert weight.grad is not None


# Several steps under way.


@pytest.fixture
def pipelined():
    engine = counting_engine(depth=3)
    made = EngineThread(engine)
    yield made
    made.close()


def test_a_pipeline_serves_many_and_neither_spins_nor_sleeps(pipelined: EngineThread) -> None:
    runner, steps, real = pipelined.engine.controller.runner, [], pipelined.engine.step

    def step():
        before = runner.sent + runner.received
        deltas = real()
        steps.append((runner.sent + runner.received - before, len(deltas)))
        return deltas

    pipelined.engine.step = step
    inboxes = [ask(pipelined, [first], deltas=True)[1] for first in range(0, 90, 10)]
    for first, inbox in zip(range(0, 90, 10), inboxes, strict=True):
        said = [inbox.get(timeout=BOUND) for _ in range(7)]
        assert said[-1].token_ids == [first + 1 + i for i in range(6)]
    assert pipelined.wait_idle(BOUND)
    assert runner.sent == runner.received > 0 and any(added == 0 for _, added in steps)
    assert all(done > 0 for done, _ in steps), "a turn of the thread that neither sent nor received a step"


def test_idle_means_that_nothing_is_under_way(pipelined: EngineThread) -> None:
    model = block(pipelined.engine)
    ids, inbox = ask(pipelined, [1] * 40, params=SamplingParams(temperature=0.0, max_tokens=400))
    assert model.begun.wait(BOUND)
    pipelined.abort(ids)
    assert not pipelined.wait_idle(0.2)
    model.go_on.set()
    assert pipelined.wait_idle(BOUND) and inbox.empty()
    runner = pipelined.engine.controller.runner
    assert runner.sent == runner.received > 1 and not pipelined.engine.under_way
    pipelined.engine.check()


def test_a_lost_rank_reaches_every_caller_in_its_own_words(pipelined: EngineThread) -> None:
    runner = pipelined.engine.controller.runner
    lost = RuntimeError("rank 3 (stage 0, tensor rank 1) is gone: signal 9")
    model = block(pipelined.engine, lost)
    inboxes = [ask(pipelined, [first], deltas=True)[1] for first in (1, 2, 3)]
    assert model.begun.wait(BOUND)
    model.go_on.set()
    for inbox in inboxes:
        stopped = inbox.get(timeout=BOUND)
        assert isinstance(stopped, EngineStopped) and str(lost) in str(stopped) and stopped.__cause__ is lost
    with pytest.raises(EngineStopped, match="rank 3"):
        ask(pipelined, [3])
    pipelined.close()
    assert runner.closed == 1 and not pipelined.engine.under_way


@pytest.mark.parametrize("used", [False, True])
def test_the_runner_is_closed_once_with_the_thread(pipelined: EngineThread, used: bool) -> None:
    if used:
        model = block(pipelined.engine)
        _, inbox = ask(pipelined, [1])
        assert model.begun.wait(BOUND)
        threading.Timer(0.2, model.go_on.set).start()
    pipelined.close()
    pipelined.close()
    runner = pipelined.engine.controller.runner
    assert runner.closed == 1 and runner.sent == used and not pipelined.engine.under_way
    assert not used or isinstance(inbox.get_nowait(), EngineStopped)
