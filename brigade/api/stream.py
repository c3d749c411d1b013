"""What `LLM.stream` returns: deltas as they come, and at the end the whole outputs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from queue import SimpleQueue
from typing import Any, Protocol

from brigade.engine.outputs import Delta, RequestOutput
from brigade.errors import EngineStopped

_END = object()  # stays in the inbox, so that every thread that reads the stream finds it


class AnsweringThread(Protocol):
    """`EngineThread` says what each of these does."""

    def submit(self, submissions: Sequence[Any], reader: Callable[[Any], None], deltas: bool = True) -> list[str]: ...

    def abort(self, request_ids: Iterable[str]) -> None: ...


class Stream(Iterator[Delta]):
    """An iterator over the deltas of some requests. `close`, and dropping it half read, abort what is left of them; whoever reads
    a closed stream is at its end."""

    def __init__(self, thread: AnsweringThread, numbers: Mapping[str, int], inbox: SimpleQueue[Any]) -> None:
        self._thread, self._numbers, self._inbox = thread, numbers, inbox
        self._outputs: dict[int, RequestOutput] = {}
        self._is_closed = False
        self._process = os.getpid()
        if not numbers:
            inbox.put(_END)

    def __next__(self) -> Delta:
        if self._process != os.getpid():  # nobody would ever answer
            raise EngineStopped("this stream belongs to the process that began it; begin another in the forked one")
        while not self._is_closed:
            said = received(self._inbox)
            if said is _END:
                self._inbox.put(_END)
                break
            number = self._numbers[said.request_id]
            if isinstance(said, Delta):
                return replace(said, request_id=str(number))
            self._outputs[number] = replace(said, request_id=str(number))
            if len(self._outputs) == len(self._numbers):
                self._inbox.put(_END)
        raise StopIteration

    @property
    def outputs(self) -> list[RequestOutput]:
        """Of the requests that have ended, in the order of the prompts: of all of them, once the iteration is over."""
        return [self._outputs[number] for number in sorted(self._outputs)]

    def close(self) -> None:
        self._is_closed = True
        self._thread.abort(self._numbers)
        self._inbox.put(_END)

    def __del__(self) -> None:
        self.close()


def received(inbox: SimpleQueue[Any]) -> Any:
    """The next thing that the thread said, `checked`."""
    said = inbox.get()
    if isinstance(said, Exception):
        inbox.put(said)  # whoever asks again hears it again
    return checked(said)


def checked(said: Any) -> Any:
    """What the thread said; its end is raised, and so is a refusal."""
    if isinstance(said, EngineStopped):
        raise said.again()
    if isinstance(said, Exception):
        raise said
    return said
