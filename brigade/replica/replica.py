"""A replica's own loop: the socket to the coordinator on one side, the engine's thread on the other.

Everything that one step said goes in one frame. Signs of life go on while a step is computed, with the number of layers that are
finished: so a slow replica is told from one that hangs. When the coordinator does not know this replica (it was started again,
or has given it up), all work is dropped and the replica registers anew: whoever has the requests now begins from what the clients
have.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import msgspec
import zmq

from brigade.coordinator.connect import connect
from brigade.coordinator.keys import Keys
from brigade.coordinator.messages import (
    MAX_MESSAGE,
    PROTOCOL,
    Beat,
    Enrolled,
    Frame,
    Leaving,
    Piece,
    Place,
    Register,
    ReplicaMessage,
    Stop,
    TurnedAway,
    Withdraw,
    decode_to_replica,
    encode,
)
from brigade.coordinator.process_watch import this_machine
from brigade.coordinator.wake import Waker
from brigade.coordinator.words import say
from brigade.errors import ConfigError, EngineStopped
from brigade.replica.works import Works, weight

if TYPE_CHECKING:
    from brigade.api.llm import LLM

BEAT = 1.0  # seconds between signs of life
AGAIN = 2.0  # after which a registration without an answer is sent again
QUIET_TRIES = 5  # of them, before somebody is told
MOST_OF_A_FRAME = MAX_MESSAGE // 8  # bytes, about
HIGH_WATER = 10_000  # messages


class Replica:
    """`model`: the name under which it is served. `name`: of this replica, another for each of a model."""

    def __init__(
        self,
        llm: LLM,
        address: str,
        *,
        model: str | None = None,
        name: str | None = None,
        keys: Keys | None = None,
        say: Callable[[str], None] = say,
    ) -> None:
        self.llm, self.address, self.keys, self.say = llm, address, keys, say
        if not llm.backend.exact:
            raise ConfigError("exact is off, so a request could not go on elsewhere with the same bits; drop --exact off")
        self._waker = Waker()
        self.works = Works(llm, self._waker.wake)
        config, cache = llm.engine.config, llm.plan.num_blocks * llm.engine.config.block_size
        if cache < llm.engine.limit - 1:  # what one replica takes, all must take
            raise ConfigError(
                f"the cache has {cache} positions, but requests may have {llm.engine.limit}; raise kv_memory or kv_blocks, "
                "or lower max_model_len"
            )
        self._card = Register(
            protocol=PROTOCOL,
            name=name or f"{socket.gethostname()}-{os.getpid()}",
            model=model or llm.name,
            identity=self.works.identity(),
            capacity=min(config.max_batch_size, config.max_waiting),
            cache=cache if config.prefix_cache else 0,
            life=secrets.token_bytes(8),
            machine=this_machine(),
            process=os.getpid(),
        )
        self._is_enrolled, self._was_enrolled = False, False
        self._beat, self._tries = 0.0, 0
        self._register_at: float | None = 0.0
        self._leave = False
        self._context = zmq.Context()
        try:
            self._socket = self._connect()
        except BaseException:
            self._waker.close()
            self._context.destroy(linger=0)
            raise
        llm.thread.after_each_step(self._waker.wake)

    @property
    def name(self) -> str:
        return self._card.name

    def run(self) -> None:
        """Until the coordinator says stop, or `leave` is called. The coordinator is told of a failure before it is raised."""
        try:
            while not self._leave:
                self._wait()
                self._hear()
                self._speak(time.monotonic())
                failure = self.llm.failure
                if failure is not None:
                    self._send(Leaving(failure))
                    raise EngineStopped(f"replica {self.name}: {failure}")
            self._send(Leaving())
        finally:
            self.works.close()
            self._context.destroy(linger=500)
            self._waker.close()

    def leave(self) -> None:
        """From another thread or a signal's handler: its requests go on elsewhere."""
        self._leave = True
        self._waker.wake()

    def _connect(self) -> zmq.Socket:
        return connect(self._context, self.address, "replicas", self.keys, HIGH_WATER)

    def _wait(self) -> None:
        until = self._beat + BEAT if self._register_at is None else self._register_at
        self._waker.wait(self._socket, until - time.monotonic())

    def _speak(self, now: float) -> None:
        pieces, cached, rejected = self.works.take(), self.works.cached, self.works.rejected
        self.works.cached, self.works.rejected = [], []
        if self._register_at is not None and now >= self._register_at:
            self._register(now)
        if not self._is_enrolled:
            return
        for one in rejected:
            self._send(one)
        for some in _frames(pieces):
            self._beat = now
            self._send(Frame(self.llm.layers_finished, some, cached))
            cached = []
        if now - self._beat >= BEAT:
            self._beat = now
            self._send(Beat(self.llm.layers_finished, self.works.is_reading))

    def _register(self, now: float) -> None:
        self._register_at = now + AGAIN
        self._tries += 1
        if self._tries == QUIET_TRIES:
            self.say(
                f"replica {self.name}: nobody answers at {self.address} so far, or nobody who knows its keys; it goes on asking"
            )
        self._send(self._card)

    def _drop(self, now: float, wait: float = 0.0) -> None:
        """Nothing of this is wanted any more."""
        self.works.clear()
        self._is_enrolled, self._register_at = False, now + wait

    def _hear(self) -> None:
        while not self._leave:
            try:
                data = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                message = decode_to_replica(data)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise ConfigError(
                    f"what {self.address} says is no coordinator's word ({error}); give its address for replicas"
                ) from None
            now = time.monotonic()
            if isinstance(message, Place):
                if self._is_enrolled:
                    self.works.place(message)
                    self._speak(time.monotonic())  # many long texts may wait here
            elif isinstance(message, Withdraw):
                self.works.withdraw(message.placement)
            elif isinstance(message, Enrolled):
                self.works.clear()
                if not self._is_enrolled:  # else that is the answer to a registration that was sent twice
                    self.say(f"replica {self.name}: {'back at' if self._was_enrolled else 'works for'} {self.address}")
                self._is_enrolled, self._was_enrolled, self._register_at, self._tries = True, True, None, 0
            elif isinstance(message, TurnedAway):
                self._turned_away(message, now)
            else:
                assert isinstance(message, Stop)
                self._leave = True

    def _turned_away(self, message: TurnedAway, now: float) -> None:
        if message.then == "end":
            raise ConfigError(f"the coordinator turned this replica away: {message.error}")
        if message.then == "wait":
            self.say(f"replica {self.name}: {message.error}; it asks again")
            self._drop(now, AGAIN)
        elif self._is_enrolled:  # else that is the answer to an older word, and the registration is on its way
            self._drop(now)

    def _send(self, message: ReplicaMessage) -> None:
        try:
            self._socket.send(encode(message), zmq.NOBLOCK)
        except zmq.Again:  # the coordinator has not read for long: what it missed is computed again
            self._socket.close(0)
            self._socket = self._connect()
            self._drop(time.monotonic(), AGAIN)


def serve(replica: Replica) -> None:
    """Run, and close the model afterwards."""
    try:
        replica.run()
    finally:
        replica.llm.close()


def _frames(pieces: list[Piece]) -> Iterator[list[Piece]]:
    """In their order, in frames that a connection takes: nearly always one."""
    some: list[Piece] = []
    size = 0
    for piece in pieces:
        own = weight(piece)
        if some and size + own > MOST_OF_A_FRAME:
            yield some
            some, size = [], 0
        some.append(piece)
        size += own
    if some:
        yield some
