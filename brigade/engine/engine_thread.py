"""The thread that steps an engine, for any number of threads and tasks that ask it for something.

Callers leave orders in a queue; the thread takes them between two steps, so all requests join the same batch. What a request
says goes to its reader: `Delta`s as they come, if it wants them, and at the end one `RequestOutput`, or a tensor of logits where
those were asked for. Three rules keep callers apart:

- A reader is called by the engine's thread, so it must only hand over: put into a queue, wake a loop. One that raises (its event
  loop is gone) is an abort of its own request.
- After `close`, or after a failure that belongs to no single request, every open reader is given an `EngineStopped`, also of an
  order that was still in the queue; whoever comes later is refused with it. Nothing waits for ever.
- An `EngineThread` that nobody holds any more closes itself. The thread holds the engine, never the `EngineThread`.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from brigade.engine.engine import Engine, Submission
from brigade.engine.outputs import Delta, RequestOutput
from brigade.errors import EngineStopped

if TYPE_CHECKING:
    from torch import Tensor

PATIENCE = 10.0  # seconds that `close` waits for the step under way

Said = Delta | RequestOutput | EngineStopped


@dataclass(frozen=True, slots=True)
class Logits:
    """The answer to a request that collects logits: [length, vocabulary]."""

    request_id: str
    logits_LV: Tensor


class EngineThread:
    """The callers' side. Every method may be called from any thread."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine  # to read its settings; only the thread changes it once the first request has come
        self._work = _Work(engine)
        self.close = weakref.finalize(self, self._work.close)  # also at the interpreter's end; a second call does nothing

    def submit(self, submissions: Sequence[Submission], reader: Callable[[Said | Logits], None], deltas: bool = True) -> list[str]:
        """Queue what `engine.prepare` returned, all or none, and return their ids, unique in this engine."""
        return self._work.submit(submissions, reader, deltas)

    def abort(self, request_ids: Iterable[str]) -> None:
        """End these requests now; their reader hears no more of them. Ids that ended already are passed over."""
        self._work.abort(list(request_ids))

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until nothing is queued or running, aborted requests included; False where that took longer than `timeout`."""
        return self._work.wait_idle(timeout)

    @property
    def is_open(self) -> bool:
        return self._work.stopped is None


@dataclass(frozen=True, slots=True)
class _Reader:
    call: Callable[[Said | Logits], None]
    deltas: bool


class _Work:
    """What the thread does. It shares `_orders`, `_readers`, `_idle` and `stopped` with the callers, under one lock."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._changed = threading.Condition()
        self._orders: list[tuple[str, Submission | None]] = []  # a submission to add, or None: a request to abort
        self._readers: dict[str, _Reader] = {}
        self.stopped: EngineStopped | None = None
        self._idle = True  # no order is open, and the engine has no work
        self._thread: threading.Thread | None = None
        self._numbers = itertools.count()

    def submit(self, submissions: Sequence[Submission], call: Callable[[Said | Logits], None], deltas: bool) -> list[str]:
        with self._changed:
            if self.stopped is not None:
                raise EngineStopped(str(self.stopped)) from self.stopped
            coming = sum(submission.params.n for _, submission in self._orders if submission is not None)
            self._engine.check_waiting(sum(submission.params.n for submission in submissions), coming)
            ids = [f"r-{next(self._numbers)}" for _ in submissions]
            self._readers.update((name, _Reader(call, deltas)) for name in ids)
            self._orders += zip(ids, submissions, strict=True)
            self._idle = False
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="brigade-engine", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return ids

    def abort(self, ids: list[str]) -> None:
        with self._changed:
            known = [name for name in ids if self._readers.pop(name, None) is not None]
            self._orders += [(name, None) for name in known]
            self._idle = self._idle and not known
            self._changed.notify_all()

    def wait_idle(self, timeout: float | None) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._idle or self.stopped is not None, timeout)

    def close(self) -> None:
        self._stop(EngineStopped("the engine was closed; make another one"))
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(PATIENCE)

    def _stop(self, reason: EngineStopped) -> None:
        """The first reason stays. All who wait hear it now, even if a step is under way."""
        with self._changed:
            if self.stopped is None:
                self.stopped = reason
            readers, self._readers = list(self._readers.values()), {}
            self._orders.clear()
            self._changed.notify_all()
        for reader in readers:
            self._hand(reader, self.stopped)

    def _run(self) -> None:
        self._engine.owner = threading.get_ident()
        try:
            while self._take_orders():
                self._hand_out(self._engine.step())
        except BaseException as error:  # whatever it is, nobody may be left waiting for it
            reason = EngineStopped(f"the engine failed and stopped ({type(error).__name__}: {error}); make another one")
            reason.__cause__ = error
            self._stop(reason)

    def _take_orders(self) -> bool:
        """Wait while there is nothing to do, carry out what was ordered; False when told to stop."""
        with self._changed:
            while self.stopped is None and not self._orders and not self._engine.has_work:
                self._idle = True
                self._changed.notify_all()
                self._changed.wait()
            if self.stopped is not None:
                return False
            orders, self._orders = self._orders, []
            for name, submission in orders:
                if submission is None:
                    self._forget(name)
                elif name in self._readers:  # else it was aborted meanwhile
                    self._engine.add(submission, name)
        return True

    def _hand_out(self, deltas: list[Delta]) -> None:
        for delta in deltas:
            reader = self._readers.get(delta.request_id)
            if reader is None:
                continue
            good = not reader.deltas or self._hand(reader, delta)
            if good and (delta.finish_reason is None or not self._engine.is_finished(delta.request_id)):
                continue
            with self._changed:
                open_still = self._readers.pop(delta.request_id, None) is not None
            if not good or not open_still:
                self._forget(delta.request_id)
            else:
                self._hand(reader, self._answer(delta.request_id))

    def _answer(self, name: str) -> RequestOutput | Logits:
        if self._engine.collects_logits(name):
            return Logits(name, self._engine.take_logits(name))
        return self._engine.take_output(name)

    def _forget(self, name: str) -> None:
        if self._engine.knows(name):
            self._engine.abort(name)
            self._engine.take_output(name)

    @staticmethod
    def _hand(reader: _Reader, said: Said | Logits) -> bool:
        """Whether the reader took it."""
        try:
            reader.call(said)
        except Exception:
            return False
        return True
