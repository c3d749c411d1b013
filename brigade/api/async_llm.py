"""`AsyncLLM`: the engine thread's face for tasks of an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from brigade.api.llm import LLM, Prompt
from brigade.engine.outputs import Delta, RequestOutput
from brigade.engine.sampling import SamplingParams
from brigade.errors import EngineStopped


class AsyncLLM:
    """Any number of tasks, of any number of event loops. `model`: as for `LLM`, or an `LLM`, which goes on after `close`.

    No lock is taken here: the garbage collector may end a request in the middle of anything. Each use of `_open` is one atomic
    operation instead.
    """

    def __init__(self, model: Any = None, **settings: Any) -> None:
        self._owns_llm = not isinstance(model, LLM)
        self.llm: LLM = LLM(model, **settings) if self._owns_llm else model
        self._open: dict[str, Callable[[Any], None]] = {}  # who waits, by request id
        self._closed = False

    async def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> AsyncIterator[Delta]:
        """Deltas as they come. Leaving early, or being cancelled, aborts the request."""
        with self._request(prompt, params, deltas=True) as inbox:
            while isinstance(said := _checked(await inbox.get()), Delta):
                yield said

    async def generate(self, prompt: Prompt, params: SamplingParams | None = None) -> RequestOutput:
        """The whole output of one prompt. Being cancelled aborts the request."""
        with self._request(prompt, params, deltas=False) as inbox:
            return _checked(await inbox.get())

    def close(self) -> None:
        """Requests that still run end with an `EngineStopped`, and so does whoever comes later."""
        self._closed = True
        while self._open:
            with suppress(KeyError, RuntimeError):  # it ended by itself; its loop is gone, and nobody waits
                name, deliver = self._open.popitem()
                self.llm.thread.abort([name])
                deliver(_closed())
        if self._owns_llm:
            self.llm.close()

    @contextmanager
    def _request(self, prompt: Prompt, params: SamplingParams | None, deltas: bool) -> Iterator[asyncio.Queue[Any]]:
        """A request that is open as long as the caller is inside; what it says comes into the queue."""
        loop, inbox, names = asyncio.get_running_loop(), asyncio.Queue[Any](), list[str]()

        def deliver(said: Any) -> None:
            """On the engine's thread. It is called for every delta, so that a loop which is gone is an abort and no waste."""
            try:
                if deltas or not isinstance(said, Delta):
                    loop.call_soon_threadsafe(inbox.put_nowait, said)
                elif loop.is_closed():
                    raise RuntimeError("the event loop of this request is closed")
            except RuntimeError:
                for name in names:  # else the dead task would be held for ever
                    self._open.pop(name, None)
                raise

        if self._closed:
            raise _closed()
        names += self.llm.thread.submit([self.llm.engine.prepare(prompt, params)], deliver)
        self._open[names[0]] = deliver
        try:
            if self._closed:  # meanwhile
                raise _closed()
            yield inbox
        finally:
            self._open.pop(names[0], None)
            self.llm.thread.abort(names)


def _closed() -> EngineStopped:
    return EngineStopped("this AsyncLLM was closed; make another one")


def _checked(said: Any) -> Any:
    if isinstance(said, EngineStopped):
        raise said.again()
    return said
