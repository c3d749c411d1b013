"""`AsyncLLM`: many callers, one engine on a thread of its own."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable
from queue import SimpleQueue
from typing import Any

from brigade.api.llm import LLM, Prompt
from brigade.engine.outputs import Delta, RequestOutput
from brigade.engine.sampling import SamplingParams


class AsyncLLM:
    """The engine is touched by its thread alone: callers leave orders in a queue, deltas go back to their event loop."""

    def __init__(self, model: Any = None, **settings: Any) -> None:
        self.llm = model if isinstance(model, LLM) else LLM(model, **settings)
        self._orders: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._readers: dict[str, Callable[[Delta | BaseException], None]] = {}
        self._names = itertools.count()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="brigade-engine", daemon=True)
        self._thread.start()

    async def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> AsyncIterator[Delta]:
        """Deltas as they come. Leaving early, or being cancelled, aborts the request."""
        if self._closed:
            raise RuntimeError("this AsyncLLM is closed; make another one")
        loop, inbox = asyncio.get_running_loop(), asyncio.Queue()
        name = f"async-{next(self._names)}"
        open_samples = (params or self.llm.default_params).n

        def deliver(item: Delta | BaseException) -> None:
            loop.call_soon_threadsafe(inbox.put_nowait, item)

        self._orders.put(lambda: self._start(name, prompt, params, deliver))
        try:
            while open_samples:
                item = await inbox.get()
                if isinstance(item, BaseException):
                    raise item
                open_samples -= item.finish_reason is not None
                yield item
        finally:
            self._orders.put(lambda: self._stop(name))

    async def generate(self, prompt: Prompt, params: SamplingParams | None = None) -> RequestOutput:
        """The whole output of one prompt."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        name, left = f"async-{next(self._names)}", (params or self.llm.default_params).n

        def deliver(item: Delta | BaseException) -> None:
            nonlocal left
            if isinstance(item, BaseException):
                loop.call_soon_threadsafe(_settle, done, item)
                return
            left -= item.finish_reason is not None
            if left == 0:
                loop.call_soon_threadsafe(_settle, done, self.llm.engine.take_output(name))

        self._orders.put(lambda: self._start(name, prompt, params, deliver))
        try:
            return await done
        finally:
            self._orders.put(lambda: self._stop(name))

    def close(self) -> None:
        """Stop the thread; requests that still run end with an error in their stream."""
        if not self._closed:
            self._closed = True
            self._orders.put(None)
            self._thread.join()

    def _start(self, name: str, prompt: Prompt, params: SamplingParams | None, deliver: Callable) -> None:
        try:
            self.llm.engine.submit(prompt, params, request_id=name)
        except BaseException as error:  # the caller's mistake goes back to the caller, whatever it is
            deliver(error)
            return
        self._readers[name] = deliver

    def _stop(self, name: str) -> None:
        if self._readers.pop(name, None) is None:
            return
        engine = self.llm.engine
        if engine.knows(name):
            engine.abort(name)
            engine.take_output(name)

    def _work(self) -> None:
        try:
            while self._take_orders():
                for delta in self.llm.engine.step():
                    reader = self._readers.get(delta.request_id)
                    if reader is not None:
                        reader(delta)
            failure: BaseException = RuntimeError("the engine was closed while this request was running")
        except BaseException as error:
            failure, self._closed = error, True
        for reader in self._readers.values():
            reader(failure)

    def _take_orders(self) -> bool:
        """Wait for orders when idle, else take those that are there; False when told to stop."""
        while True:
            if self.llm.engine.has_work and self._orders.empty():
                return True
            order = self._orders.get()
            if order is None:
                return False
            order()


def _settle(future: asyncio.Future, result: RequestOutput | BaseException) -> None:
    if future.done():
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)
