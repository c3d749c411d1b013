"""How callers ask: `BlockingFace` for threads and `AsyncFace` for the tasks of an event loop. What they ask is a thread that
answers their readers: an engine's own, or a client's, which asks a coordinator. A caller cannot tell which.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

from brigade.api.stream import AnsweringThread, Stream, checked, received
from brigade.engine.outputs import Delta, RequestOutput
from brigade.engine.prompt import Prompt, as_prompts, named
from brigade.engine.sampling.params import SamplingParams
from brigade.errors import EngineStopped, RequestError

Params = SamplingParams | Mapping[str, Any] | None  # a mapping names some; the others are as the model's own defaults say


def named_params(make: Callable[..., SamplingParams], given: Mapping[str, Any]) -> SamplingParams:
    try:
        return make(**given)
    except TypeError as error:
        raise RequestError(f"unknown sampling parameter ({error}); those of SamplingParams are allowed") from error


class BlockingFace:
    """Any number of threads may call it at once, and no call sees another's requests."""

    thread: AnsweringThread

    def _prepare(self, prompt: Prompt, params: Params) -> Any:
        """A submission of the thread, or the reason why not."""
        raise NotImplementedError

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: Params | Sequence[Params] = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[RequestOutput]:
        """Run all prompts to their end; outputs come in the order of the prompts, the k-th with the request id `str(k)`. One bad
        prompt refuses them all, before any work. A request that fails later ends alone: its finish reason is "error"."""
        numbers, inbox = self._submit(self._prepare_all(prompts, params), deltas=False)
        outputs: dict[int, RequestOutput] = {}
        try:
            while len(outputs) < len(numbers):
                output = received(inbox)
                number = numbers[output.request_id]
                outputs[number] = replace(output, request_id=str(number))
                if progress is not None:
                    progress(len(outputs), len(numbers))
        finally:
            self.thread.abort(numbers)
        return [outputs[number] for number in range(len(numbers))]

    def stream(self, prompts: Prompt | Sequence[Prompt], params: Params | Sequence[Params] = None) -> Stream:
        """Deltas as they come; the k-th prompt's request id is `str(k)`. Leaving the loop early aborts what is left."""
        return Stream(self.thread, *self._submit(self._prepare_all(prompts, params), deltas=True))

    def _prepare_all(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: Params | Sequence[Params],
        prepare: Callable[[Prompt, Params], Any] | None = None,
    ) -> list[Any]:
        """All or none. `prepare`: in place of the face's own."""
        prepare = self._prepare if prepare is None else prepare
        prompts = as_prompts(prompts)
        each = list(params) if isinstance(params, (list, tuple)) else [params] * len(prompts)
        if len(each) != len(prompts):
            raise RequestError(f"{len(prompts)} prompts but {len(each)} sampling parameters; give one for all, or one each")
        prepared = []
        for number, (prompt, one) in enumerate(zip(prompts, each, strict=True)):
            with named(number, len(prompts)):
                prepared.append(prepare(prompt, one))
        return prepared

    def _submit(self, prepared: list[Any], deltas: bool) -> tuple[dict[str, int], SimpleQueue[Any]]:
        """The requests' ids with the numbers of their prompts, and where their answers come."""
        inbox: SimpleQueue[Any] = SimpleQueue()
        ids = self.thread.submit(prepared, inbox.put, deltas)
        return {name: number for number, name in enumerate(ids)}, inbox


class Feed:
    """What some requests say. It is at its end when `left` is 0. `read`: the lengths of the prompts that were read so far, by
    request, also where no deltas are wanted."""

    def __init__(self, names: Sequence[str], inbox: asyncio.Queue[Any], read: dict[str, int]) -> None:
        self.left, self._read = len(names), read
        self._places, self._inbox = {name: place for place, name in enumerate(names)}, inbox

    def fail(self, error: Exception) -> None:
        """Whoever reads this gets `error`, whatever is still to come. On the reader's own event loop."""
        self._inbox.put_nowait(error)

    @property
    def prompt_tokens(self) -> int:
        """Of the prompts that were read."""
        return sum(self._read.copy().values())

    async def next(self, timeout: float | None = None) -> list[tuple[int, Delta | RequestOutput]]:
        """All that came since: each with the place of its request, deltas if they are wanted, and of every request its whole output
        at the end. Waits until there is something; where that takes longer than `timeout` seconds, nothing."""
        try:
            async with asyncio.timeout(timeout):
                found = [await self._inbox.get()]
        except TimeoutError:
            return []
        while not self._inbox.empty():
            found.append(self._inbox.get_nowait())
        for said in map(checked, found):
            self.left -= isinstance(said, RequestOutput)
        return [(self._places[said.request_id], said) for said in found]


class AsyncFace:
    """Any number of tasks, of any number of event loops.

    No lock is taken here: the garbage collector may end a request in the middle of anything. Each use of `_open` is one atomic
    operation instead.
    """

    thread: AnsweringThread

    def __init__(self) -> None:
        self._open: dict[str, Callable[[Any], None]] = {}  # who waits, by request id
        self._closed = False

    def _prepare(self, prompt: Prompt, params: Params) -> Any:
        """A submission of the thread, or the reason why not."""
        raise NotImplementedError

    async def stream(self, prompt: Prompt, params: Params = None) -> AsyncIterator[Delta]:
        """Deltas as they come. Leaving early, or being cancelled, aborts the request."""
        with self._requests([self._prepare(prompt, params)], deltas=True) as (_, inbox, _):
            while isinstance(said := checked(await inbox.get()), Delta):
                yield said

    async def generate(self, prompt: Prompt, params: Params = None) -> RequestOutput:
        """The whole output of one prompt. Being cancelled aborts the request."""
        with self._requests([self._prepare(prompt, params)], deltas=False) as (_, inbox, _):
            return checked(await inbox.get())

    def prepare(self, prompt: Prompt, params: Params = None) -> Any:
        """What `opened` takes: a prompt with its parameters, read and checked. That may take long, so any thread may do it."""
        return self._prepare(prompt, params)

    @contextmanager
    def opened(self, prepared: Sequence[Any], deltas: bool = True) -> Iterator[Feed]:
        """Some requests, submitted all or none, and what they say. Leaving early, or being cancelled, aborts what is left."""
        with self._requests(prepared, deltas) as (names, inbox, read):
            yield Feed(names, inbox, read)

    def close(self) -> None:
        """Requests that still run end with an `EngineStopped`, and so does whoever comes later."""
        self._closed = True
        while self._open:
            with suppress(KeyError, RuntimeError):  # it ended by itself; its loop is gone, and nobody waits
                name, deliver = self._open.popitem()
                self.thread.abort([name])
                deliver(self._stopped())

    @contextmanager
    def _requests(self, prepared: Sequence[Any], deltas: bool) -> Iterator[tuple[list[str], asyncio.Queue[Any], dict[str, int]]]:
        """Requests that are open as long as the caller is inside; what they say comes into the queue."""
        loop, inbox, names, read = asyncio.get_running_loop(), asyncio.Queue[Any](), list[str](), dict[str, int]()

        def deliver(said: Any) -> None:
            """On the answering thread. It is called for every delta, so that a loop which is gone is an abort and no waste."""
            if isinstance(said, Delta) and said.prompt_token_ids is not None:
                read[said.request_id] = len(said.prompt_token_ids)
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
            raise self._stopped()
        names += self.thread.submit(prepared, deliver)
        self._open.update(dict.fromkeys(names, deliver))
        try:
            if self._closed:  # meanwhile
                raise self._stopped()
            yield names, inbox, read
        finally:
            for name in names:
                self._open.pop(name, None)
            self.thread.abort(names)

    def _stopped(self) -> EngineStopped:
        return EngineStopped(f"this {type(self).__name__} was closed; make another one")
