"""The thread that speaks with a coordinator, for any number of threads and tasks: an `EngineThread`'s likeness, with the engines
somewhere else. Readers are called by this thread, and must only hand over. One that nobody holds any more closes itself.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
import zmq

from brigade.client.asked import Asked
from brigade.client.conversation import Conversation
from brigade.coordinator.connect import connect
from brigade.coordinator.keys import Keys
from brigade.coordinator.messages import MAX_MESSAGE, Ask, Status, decode_to_client, encode
from brigade.coordinator.wake import Waker
from brigade.errors import ConfigError, EngineStopped

TICK = 0.25  # seconds
HIGH_WATER = 100_000  # messages
MOST_A_ROUND = 1000  # messages that are read before others have their turn


@dataclass(frozen=True, slots=True)
class Wish:
    """A request that was checked. `prompt`: its text as given, if it is one."""

    ask: Ask
    prompt: str | None
    wants_logprobs: bool
    identity: str = ""  # as `Asked` has it


class ClientThread:
    """The callers' side. Every method may be called from any thread."""

    def __init__(self, address: str, patience: float, keys: Keys | None, first_patience: float | None = None) -> None:
        self._work = _Work(address, patience, keys, first_patience)
        self.close = weakref.finalize(self, self._work.close)

    def submit(self, wishes: Sequence[Wish], reader: Callable[[Any], None], deltas: bool = True) -> list[str]:
        return self._work.submit(wishes, reader, deltas)

    def abort(self, request_ids: Iterable[str]) -> None:
        self._work.order(("abort", [int(name.removeprefix("c-")) for name in request_ids]))

    def look(self, timeout: float) -> Status:
        """How the coordinator is."""
        self._work.check_open()
        answers: deque[Status | Exception] = deque()
        heard = threading.Event()

        def reader(said: Status | Exception) -> None:
            answers.append(said)
            heard.set()

        self._work.order(("look", reader))
        if not heard.wait(timeout):
            self._work.check_open()
            raise ConfigError(
                f"no coordinator answers at {self._work.address} ({timeout:g} s); start it, or give its address and its keys"
            )
        answer = answers.popleft()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def check_open(self) -> None:
        self._work.check_open()


class _Work:
    """What the thread does. Callers and thread share a queue and `stopped`, which is set once."""

    def __init__(self, address: str, patience: float, keys: Keys | None, first_patience: float | None) -> None:
        self.address = address
        self.stopped: EngineStopped | None = None
        self._orders: deque[tuple[str, Any]] = deque()
        self._numbers = itertools.count(1)
        self._process = os.getpid()
        self._keys = keys
        self._unsent: deque[bytes] = deque()
        self._conversation = Conversation(address, patience, time.monotonic(), first_patience)
        self._thread = threading.Thread(target=self._run, name="brigade-client", daemon=True)
        self._waker, self._context = Waker(), zmq.Context()
        try:
            self._socket = self._connect()
            self._thread.start()
        except BaseException:
            self._waker.close()
            self._context.destroy(linger=0)
            raise

    def _connect(self) -> zmq.Socket:
        return connect(self._context, self.address, "clients", self._keys, HIGH_WATER)

    def submit(self, wishes: Sequence[Wish], reader: Callable[[Any], None], deltas: bool) -> list[str]:
        self.check_open()
        asked = [
            Asked(next(self._numbers), one.ask, one.prompt, reader, deltas, one.wants_logprobs, one.identity)
            for one in wishes
        ]  # fmt: skip
        self.order(("submit", asked))
        self.check_open()
        return [one.name for one in asked]

    def order(self, order: tuple[str, Any]) -> None:
        """Takes no lock: the garbage collector may end a request in the middle of anything."""
        if self._process != os.getpid():
            raise EngineStopped("this client belongs to the process that made it; make another one in the forked process")
        self._orders.append(order)
        self._waker.wake()

    def check_open(self) -> None:
        if self.stopped is not None:
            raise self.stopped.again()

    def close(self) -> None:
        if self._process != os.getpid() or self.stopped is not None:
            return
        self.stopped = EngineStopped("the client was closed; make another one")
        self.order(("close", None))
        if threading.current_thread() is not self._thread:
            self._thread.join(5)

    def _run(self) -> None:
        next_tick = time.monotonic()
        try:
            while self.stopped is None:
                self._send()
                self._waker.wait(self._socket, next_tick - time.monotonic())
                self._take_orders()
                self._hear()
                if time.monotonic() >= next_tick:
                    self._conversation.tick(time.monotonic())
                    next_tick = time.monotonic() + TICK
                if self._conversation.refused is not None:
                    self.stopped = EngineStopped(f"the coordinator at {self.address} refused: {self._conversation.refused}")
        except BaseException as error:  # nobody may be left waiting for it
            self.stopped = EngineStopped(f"the client failed ({type(error).__name__}: {error}); make another one")
            self.stopped.__cause__ = error
        finally:
            self._end()

    def _end(self) -> None:
        self._take_orders()
        assert self.stopped is not None
        self._conversation.stop(self.stopped)
        self._conversation.leave()
        with suppress(zmq.ZMQError, ValueError):
            self._send()
        self._context.destroy(linger=500)
        self._waker.close()

    def _take_orders(self) -> None:
        while self._orders:
            kind, what = self._orders.popleft()
            if kind == "submit":
                for asked in what:
                    self._conversation.submit(asked)
            elif kind == "abort":
                for number in what:
                    self._conversation.abort(number)
            elif kind == "look":
                self._conversation.look(what)

    def _hear(self) -> None:
        for _ in range(MOST_A_ROUND):
            if self._conversation.is_broken:
                return
            try:
                data = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            with suppress(msgspec.MsgspecError, UnicodeDecodeError):  # another protocol: its hello is refused in words
                self._conversation.hear(decode_to_client(data), time.monotonic())

    def _send(self) -> None:
        if self._conversation.is_broken:
            self._socket.close(0)
            self._socket = self._connect()
            self._conversation.connect_again(time.monotonic())
        self._unsent += map(encode, self._conversation.take())
        while self._unsent:
            if len(self._unsent[0]) > MAX_MESSAGE:
                raise ValueError(f"what it has to say has {len(self._unsent[0])} bytes, above {MAX_MESSAGE}: ask for fewer at once")
            try:
                self._socket.send(self._unsent[0], zmq.NOBLOCK)
            except zmq.Again:  # it is away for long, and what waits for it is plenty
                return
            self._unsent.popleft()
