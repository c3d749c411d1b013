"""The desk counts who is open, and lets nobody in between a wish to end and the end."""

from __future__ import annotations

import asyncio
import threading

import pytest

from brigade import LLM, AsyncLLM
from brigade.serve.desk import Desk
from brigade.serve.errors import ApiError
from brigade.serve.job import Job
from brigade.serve.served import Served
from tests.serve.servers import served_of


def test_a_request_that_is_still_read_when_the_end_begins_is_sent_away(llm: LLM) -> None:
    """It is not open yet, so nobody waits for it: begun, it would be cut off."""

    async def run() -> None:
        desk, goes_on = Desk(AsyncLLM(llm)), threading.Event()
        before = desk._prepare
        desk._prepare = lambda job, served: (goes_on.wait(10), before(job, served))[1]  # type: ignore[method-assign]
        preparing = asyncio.ensure_future(desk.prepare(Job("a", 0, ["a" * 3000], {}), served_of(llm)))
        await asyncio.sleep(0.05)
        assert await desk.drain(1.0)
        goes_on.set()
        with pytest.raises(ApiError) as refused:
            await preparing
        assert refused.value.status == 503 and refused.value.retry_after == 10

    asyncio.run(run())


def test_the_end_waits_for_who_is_open_and_for_no_longer_than_it_may(llm: LLM) -> None:
    async def run() -> None:
        desk = Desk(AsyncLLM(llm))
        prepared = await desk.prepare(Job("a", 0, ["a", "b"], {"max_tokens": 1000, "ignore_eos": True}), served_of(llm))
        with desk.opened(prepared, deltas=True):
            assert desk.open == 1 and not await desk.drain(0.05)
            with pytest.raises(ApiError):
                desk.check_open()
        assert desk.open == 0 and await desk.drain(0.05)

    asyncio.run(run())
    assert llm.thread.wait_idle(5)


CONSTRAINED = {"max_tokens": 4, "constraint": {"regex": "[a-z]+"}}


@pytest.fixture
def slow(llm: LLM):
    """A desk that is let go on prompt by prompt, and the prompts that it has begun to read."""
    desk, begun, goes_on = Desk(AsyncLLM(llm)), [], threading.Semaphore(0)
    before = desk._prepare_one

    def prepare_one(place: int, job: Job, served: Served):
        begun.append((job.id, place))
        assert goes_on.acquire(timeout=20)
        return before(place, job, served)

    desk._prepare_one = prepare_one  # type: ignore[method-assign]
    yield desk, begun, goes_on
    goes_on.release(1000)


async def until(condition) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def test_nothing_more_is_compiled_for_a_client_that_has_left(llm: LLM, slow) -> None:
    desk, begun, goes_on = slow

    async def run() -> None:
        preparing = asyncio.ensure_future(desk.prepare(Job("a", 0, ["a"] * 50, CONSTRAINED), served_of(llm)))
        await until(lambda: begun)
        preparing.cancel()
        goes_on.release(1000)
        with pytest.raises(asyncio.CancelledError):
            await preparing
        await asyncio.wait_for(desk.prepare(Job("b", 0, ["a"], CONSTRAINED), served_of(llm)), 20)
        assert begun == [("a", 0), ("b", 0)]

    asyncio.run(run())


def test_many_constraints_hold_up_neither_other_work_nor_each_other_for_long(llm: LLM, slow) -> None:
    desk, begun, goes_on = slow

    async def run() -> None:
        jobs = [Job(str(number), 0, ["a"] * 8, CONSTRAINED) for number in range(40)]
        preparing = [asyncio.ensure_future(desk.prepare(job, served_of(llm))) for job in jobs]
        await until(lambda: begun)
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 20) == "free"
        goes_on.release(1000)
        await asyncio.gather(*preparing)
        first = [place for _, place in begun[:40]]  # each job has had its turn before one has had two or three more
        assert len(begun) == 320 and max(first) <= 2

    asyncio.run(run())


@pytest.mark.parametrize(("prompts", "where"), [(["a"], "here"), (["a" * 3000], "apart"), (["a"] * 50, "apart")])
def test_what_takes_long_is_read_apart(llm: LLM, prompts: list[str], where: str) -> None:
    async def run() -> None:
        desk, names = Desk(AsyncLLM(llm)), []
        before = desk._prepare
        desk._prepare = lambda job, served: (names.append(threading.current_thread()), before(job, served))[1]  # type: ignore[method-assign]
        await desk.prepare(Job("a", 0, prompts, {"max_tokens": 1}), served_of(llm))
        assert (names[0] is threading.current_thread()) == (where == "here")

    asyncio.run(run())
