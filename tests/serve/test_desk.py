"""The desk counts who is open, and lets nobody in between a wish to end and the end."""

from __future__ import annotations

import asyncio
import threading

import pytest

from brigade import LLM, AsyncLLM
from brigade.serve.desk import Desk
from brigade.serve.errors import ApiError
from brigade.serve.job import Job
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


@pytest.mark.parametrize(("prompts", "where"), [(["a"], "here"), (["a" * 3000], "apart"), (["a"] * 50, "apart")])
def test_what_takes_long_is_read_apart(llm: LLM, prompts: list[str], where: str) -> None:
    async def run() -> None:
        desk, names = Desk(AsyncLLM(llm)), []
        before = desk._prepare
        desk._prepare = lambda job, served: (names.append(threading.current_thread()), before(job, served))[1]  # type: ignore[method-assign]
        await desk.prepare(Job("a", 0, prompts, {"max_tokens": 1}), served_of(llm))
        assert (names[0] is threading.current_thread()) == (where == "here")

    asyncio.run(run())
