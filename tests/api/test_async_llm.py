"""The engine's face for tasks: many callers, loops that go, and an end for everyone."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from brigade import LLM, AsyncLLM, SamplingParams
from brigade.errors import EngineStopped, UserError

GREEDY = SamplingParams(max_tokens=12, temperature=0.0)
LONG = SamplingParams(max_tokens=900, temperature=0.0, ignore_eos=True)


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(kv_blocks=64)


def test_many_async_callers_get_their_own_answers(llm: LLM) -> None:
    prompts = [f"def f{i}(" for i in range(6)]
    expected = [output.text for output in llm.generate(prompts, GREEDY)]

    async def one(server: AsyncLLM, prompt: str) -> str:
        return "".join([delta.text async for delta in server.stream(prompt, GREEDY)])

    async def everyone() -> list[str]:
        server = AsyncLLM(kv_blocks=64)
        try:
            texts = await asyncio.gather(*(one(server, prompt) for prompt in prompts))
            assert (await server.generate(prompts[0], GREEDY)).text == texts[0]
            with pytest.raises(UserError, match="0 tokens"):
                await server.generate([], GREEDY)
            async for _ in server.stream("while ", SamplingParams(max_tokens=200)):
                break
            return texts
        finally:
            server.close()

    assert asyncio.run(everyone()) == expected


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # asyncio, of the task whose loop is gone
@pytest.mark.parametrize("streamed", [True, False])
def test_a_loop_that_is_gone_is_an_abort_and_is_forgotten(llm: LLM, streamed: bool) -> None:
    server = AsyncLLM(llm)

    async def ask() -> None:
        if streamed:
            async for _ in server.stream("x = ", LONG):
                pass
        else:
            await server.generate("x = ", LONG)

    loop, before = asyncio.new_event_loop(), llm.engine.steps
    task = loop.create_task(ask())
    loop.run_until_complete(asyncio.sleep(0.05))
    assert not task.done() and server._open
    gone = weakref.ref(task)
    loop.close()
    assert llm.thread.wait_idle(10) and not server._open
    assert llm.engine.steps - before < 600, "it did not run to its end for nobody"
    del task
    gc.collect()
    assert gone() is None
    assert asyncio.run(server.generate("x = ", GREEDY)).finish_reason == "length"  # another loop is served


def test_close_ends_whoever_waits_and_leaves_the_llm(llm: LLM) -> None:
    async def everyone() -> None:
        server = AsyncLLM(llm)
        waiting = [asyncio.ensure_future(server.generate("x = ", LONG)) for _ in range(3)]
        await asyncio.sleep(0.02)
        server.close()
        for found in await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10):
            assert isinstance(found, EngineStopped)
        with pytest.raises(EngineStopped, match="this AsyncLLM was closed"):
            await server.generate("x = ", GREEDY)
        with pytest.raises(EngineStopped, match="this AsyncLLM was closed"):
            async for _ in server.stream("x = ", GREEDY):
                pass

    asyncio.run(everyone())
    assert llm.generate("x = ", GREEDY)[0].finish_reason == "length"


def test_close_of_its_own_llm_stops_the_engine() -> None:
    server = AsyncLLM(kv_blocks=8)
    assert asyncio.run(server.generate("x = ", GREEDY)).finish_reason == "length"
    server.close()
    assert not server.llm.thread.is_open
    with pytest.raises(EngineStopped, match="closed"):
        server.llm.generate("x = ", GREEDY)
