"""`AsyncLLM`: the engine thread's face for tasks of an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from brigade.api.llm import LLM, Prompt
from brigade.engine.outputs import Delta, RequestOutput
from brigade.engine.sampling import SamplingParams
from brigade.errors import EngineStopped


class AsyncLLM:
    """Any number of tasks, of any number of event loops. `model`: as for `LLM`, or an `LLM`, which goes on after `close`."""

    def __init__(self, model: Any = None, **settings: Any) -> None:
        self._owns_llm = not isinstance(model, LLM)
        self.llm: LLM = LLM(model, **settings) if self._owns_llm else model
        self._lock = threading.Lock()
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
        with self._lock:
            self._closed = True
            waiting, self._open = self._open, {}
        if self._owns_llm:
            self.llm.close()
        self.llm.thread.abort(waiting)
        for deliver in waiting.values():
            with suppress(RuntimeError):  # a loop that is gone has nobody who waits
                deliver(EngineStopped("this AsyncLLM was closed; make another one"))

    @contextmanager
    def _request(self, prompt: Prompt, params: SamplingParams | None, deltas: bool) -> Iterator[asyncio.Queue[Any]]:
        """A request that is open as long as the caller is inside; what it says comes into the queue."""
        loop, inbox = asyncio.get_running_loop(), asyncio.Queue[Any]()

        def deliver(said: Any) -> None:  # on the engine's thread; raises where the loop is gone, which is an abort
            loop.call_soon_threadsafe(inbox.put_nowait, said)

        prepared = self.llm.engine.prepare(prompt, params)
        with self._lock:
            if self._closed:
                raise EngineStopped("this AsyncLLM was closed; make another one")
            (name,) = self.llm.thread.submit([prepared], deliver, deltas)
            self._open[name] = deliver
        try:
            yield inbox
        finally:
            with self._lock:
                self._open.pop(name, None)
            self.llm.thread.abort([name])


def _checked(said: Any) -> Any:
    if isinstance(said, EngineStopped):
        raise EngineStopped(str(said)) from said
    return said
