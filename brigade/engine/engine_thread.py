"""The thread that steps an engine, for any number of threads and tasks that ask it for something.

Callers leave orders in a queue; the thread takes them between two steps, so all requests join the same batch. What a request
says goes to its reader: `Delta`s as they come, if it wants them, and at the end one `RequestOutput`, or `Logits` where those were
asked for. Four rules keep callers apart:

- A reader is called by the engine's thread, so it must only hand over: put into a queue, wake a loop. One that raises (its event
  loop is gone) is an abort of its own request.
- After `close`, or after a failure that belongs to no single request, every open reader is given an `EngineStopped`, also of an
  order that was still in the queue; whoever comes later is refused with it. Nothing waits for ever.
- An `EngineThread` that nobody holds any more closes itself. The thread holds the engine, never the `EngineThread`.
  The thread's last act is to close the engine, once everybody was told; steps under way are dropped.
- `abort` and `close` take no lock, since the garbage collector may call them in the middle of anything.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING

from brigade.engine.engine import Engine
from brigade.engine.outputs import Delta, RequestOutput
from brigade.engine.submission import Submission
from brigade.errors import EngineStopped, in_one_line

if TYPE_CHECKING:
    from torch import Tensor

PATIENCE = 10.0  # seconds that `close` waits for the step under way


@dataclass(frozen=True, slots=True)
class Logits:
    """The answer to a request that collects logits: [length, vocabulary]."""

    request_id: str
    logits_LV: Tensor


Said = Delta | RequestOutput | Logits | EngineStopped


class EngineThread:
    """The callers' side. Every method may be called from any thread."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine  # to read its settings; only the thread changes it once the first request has come
        self._work = _Work(engine)
        self.close = weakref.finalize(self, self._work.close)  # also at the interpreter's end; a second call does nothing

    def after_each_step(self, call: Callable[[], None]) -> None:
        """`call` is called once the readers have what a step said, and once they were told of the end: for whoever reads many
        requests, and passes on together what came together. It is called like a reader."""
        self._work.after_step = call

    def submit(
        self, submissions: Sequence[Submission], reader: Callable[[Said], None], deltas: bool = True, is_bounded: bool = True
    ) -> list[str]:
        """Queue what `engine.prepare` returned, all or none, and return their ids, unique in this engine. `is_bounded`: refused
        where too many wait; a caller who counts for itself is not."""
        return self._work.submit(submissions, reader, deltas, is_bounded)

    def abort(self, request_ids: Iterable[str]) -> None:
        """End these requests now; their reader hears no more of them. Ids that ended already are passed over."""
        self._work.abort(request_ids)

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until nothing is queued or running, aborted requests included; False where that took longer than `timeout`."""
        return self._work.wait_idle(timeout)

    @property
    def is_open(self) -> bool:
        return self._work.stopped is None

    def check_open(self) -> None:
        """An `EngineStopped` that says why, where nothing can be asked any more."""
        self._work.check_open()


@dataclass(frozen=True, slots=True)
class _Reader:
    call: Callable[[Said], None]
    deltas: bool


@dataclass(frozen=True, slots=True)
class _Add:
    name: str
    submission: Submission


@dataclass(frozen=True, slots=True)
class _Abort:
    name: str


@dataclass(frozen=True, slots=True)
class _TellIdle:
    idle: threading.Event


_WAKE = object()  # look whether you are to stop


def _nothing() -> None:
    pass


class _Work:
    """What the thread does. Callers and thread share a queue, a dictionary of which each use is one atomic operation, and
    `stopped`, which is set once. The lock is for submissions among themselves, so that the count of who waits is right."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._orders: SimpleQueue[object] = SimpleQueue()
        self._readers: dict[str, _Reader] = {}
        self.stopped: EngineStopped | None = None
        self.after_step: Callable[[], None] = _nothing
        self._submitting = threading.Lock()
        self._accepted = self._added = 0  # requests that were promised a place, and that have come to it
        self._thread: threading.Thread | None = None
        self._process = os.getpid()
        self._numbers = itertools.count()

    def submit(self, submissions: Sequence[Submission], call: Callable[[Said], None], deltas: bool, is_bounded: bool) -> list[str]:
        self._check_process()
        count = sum(submission.params.n for submission in submissions)
        with self._submitting:
            self.check_open()
            if is_bounded:
                self._engine.check_waiting(count, self._accepted - self._added)
            self._start()
            ids = [f"r-{next(self._numbers)}" for _ in submissions]
            try:
                for name, submission in zip(ids, submissions, strict=True):
                    self._readers[name] = _Reader(call, deltas)
                    self._orders.put(_Add(name, submission))
                    self._accepted += submission.params.n
            except BaseException:  # Ctrl-C in the middle of many: nobody would ever ask for those
                self.abort(ids)
                raise
        if self.stopped is not None:  # perhaps before the readers were there to be told
            for name in ids:
                self._readers.pop(name, None)
            self.check_open()
        return ids

    def abort(self, ids: Iterable[str]) -> None:
        if self._process != os.getpid():
            return
        for name in list(ids):
            if self._readers.pop(name, None) is not None:
                self._orders.put(_Abort(name))

    def wait_idle(self, timeout: float | None) -> bool:
        if self._thread is None or self._process != os.getpid():
            return True
        idle, until = threading.Event(), None if timeout is None else time.monotonic() + timeout
        self._orders.put(_TellIdle(idle))
        while not idle.wait(0.1):  # in turns, since the engine may stop without an answer
            if self.stopped is not None:
                return True
            if until is not None and time.monotonic() >= until:
                return False
        return True

    def close(self) -> None:
        if self._process != os.getpid():
            return
        self._stop(EngineStopped("the engine was closed; make another LLM"))
        thread = self._thread
        if thread is None:
            self._engine.close()
        elif thread.is_alive() and thread is not threading.current_thread():  # one that has not begun yet ends at once
            thread.join(PATIENCE)

    def check_open(self) -> None:
        if self.stopped is not None:
            raise self.stopped.again()

    def _check_process(self) -> None:
        if self._process != os.getpid():
            if self._thread is not None:  # which is not in this process
                raise EngineStopped("this LLM belongs to the process that used it first; make another LLM in the forked one")
            self._adopt()

    def _adopt(self) -> None:
        """In this process nobody has asked for anything, and nobody holds the lock."""
        self._process, self._submitting = os.getpid(), threading.Lock()
        self._orders, self._readers = SimpleQueue(), {}
        self._accepted = self._added = 0

    def _start(self) -> None:
        """The thread is known before it runs, so that whoever closes in that moment, or is interrupted, makes no second one."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="brigade-engine", daemon=True)
            try:
                self._thread.start()
            except BaseException:
                if not self._thread.is_alive():
                    self._thread = None
                raise

    def _stop(self, reason: EngineStopped) -> None:
        """The first reason stays. All who wait hear it now, even if a step is under way."""
        if self.stopped is None:
            self.stopped = reason
        self._orders.put(_WAKE)
        while self._readers:
            try:
                _, reader = self._readers.popitem()
            except KeyError:  # somebody else told the last one
                break
            self._hand(reader, self.stopped)
        self.after_step()

    def _run(self) -> None:
        self._engine.owner = threading.get_ident()
        try:
            while self.stopped is None:
                self._take_orders()
                if self.stopped is None and self._engine.has_work:
                    deltas = self._engine.step()
                    self._hand_out(deltas)
                    if deltas:
                        self.after_step()
        except BaseException as error:  # whatever it is, nobody may be left waiting for it
            reason = EngineStopped(f"the engine failed and stopped ({in_one_line(error)}); make another LLM")
            reason.__cause__ = error
            self._stop(reason)
        finally:
            self._engine.close()

    def _take_orders(self) -> None:
        """Carry out what was ordered by now; wait for an order where there is nothing else to do. What comes meanwhile has its turn
        after a step, so that callers who order without end stop nobody's tokens."""
        tell: list[threading.Event] = []
        count = self._orders.qsize()
        while self.stopped is None:
            if count <= 0 and self._engine.has_work:
                break
            waits = self._orders.empty()
            while waits and tell:
                tell.pop().set()
            order = self._orders.get()
            count = self._orders.qsize() if waits else count - 1
            if isinstance(order, _Add):
                if order.name in self._readers:  # else it was aborted meanwhile
                    self._engine.add(order.submission, order.name)
                self._added += order.submission.params.n
            elif isinstance(order, _Abort):
                self._forget(order.name)
            elif isinstance(order, _TellIdle):
                tell.append(order.idle)
        for idle in tell:  # to be told another time
            self._orders.put(_TellIdle(idle))

    def _hand_out(self, deltas: list[Delta]) -> None:
        last = {delta.request_id: place for place, delta in enumerate(deltas)}  # several samples may end in one step
        for place, delta in enumerate(deltas):
            name = delta.request_id
            reader = self._readers.get(name)
            if reader is None:
                continue
            good = not reader.deltas or self._hand(reader, delta)
            if good and (place < last[name] or not self._engine.is_finished(name)):
                continue
            answer = self._answer(name) if good else None
            if self._readers.pop(name, None) is None or answer is None:
                self._forget(name)
            else:
                self._hand(reader, answer)

    def _answer(self, name: str) -> RequestOutput | Logits:
        """The engine forgets the request. Logits that cannot be put together (they are large) are its own error."""
        if self._engine.collects_logits(name):
            try:
                return Logits(name, self._engine.take_logits(name))
            except Exception as error:
                self._engine.fail(name, error)
        return self._engine.take_output(name)

    def _forget(self, name: str) -> None:
        if self._engine.knows(name):
            self._engine.abort(name)
            self._engine.take_output(name)

    @staticmethod
    def _hand(reader: _Reader, said: Said) -> bool:
        """Whether the reader took it."""
        try:
            reader.call(said)
        except Exception:
            return False
        return True
