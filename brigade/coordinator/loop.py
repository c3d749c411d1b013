"""The thin loop around the coordinator's logic: sockets, the clock and the journal. It knows nothing of requests.

One round reads what has come, hands it to the machine, writes the records, and only then sends. Clients, replicas and operators
have a socket each, so what a client says is never taken for a replica's word. A message that cannot be read (of the wrong kind, of
a broken encoding) is counted and dropped, and one line a second at most says so; ZeroMQ ends the connection of one that is too
large.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import zmq
from zmq.auth.thread import ThreadAuthenticator

from brigade.coordinator.connect import check_port
from brigade.coordinator.control import ControlState
from brigade.coordinator.journal import Journal
from brigade.coordinator.keys import ROLES, Keys, Role
from brigade.coordinator.machine import Coordinator
from brigade.coordinator.messages import (
    MAX_MESSAGE,
    Refused,
    Register,
    ReplicaMessage,
    TurnedAway,
    decode_from_client,
    decode_from_operator,
    decode_from_replica,
    encode,
)
from brigade.coordinator.process_watch import ProcessWatch
from brigade.coordinator.settings import CoordinatorSettings
from brigade.coordinator.wake import Waker
from brigade.coordinator.words import say
from brigade.errors import ConfigError

TICK = 0.1  # seconds
MOST_A_ROUND = 1000  # messages that are read from a socket before the others have their turn
HIGH_WATER = 10_000  # messages that wait for a peer that does not read
CLIENT, REPLICA, OPERATOR = b"c", b"r", b"o"  # what an address of the machine begins with
DECODE: dict[bytes, Callable[[bytes], Any]] = {
    CLIENT: decode_from_client, REPLICA: decode_from_replica, OPERATOR: decode_from_operator,
}  # fmt: skip
NAMES = {CLIENT: "a client", REPLICA: "a replica", OPERATOR: "an operator"}
ROOMS = dict(zip(DECODE, ROLES, strict=True))
ANY_PORT = "tcp://127.0.0.1:*"


class Loop:
    """`clients`, `replicas` and `operators`: ZeroMQ addresses to listen on, such as tcp://127.0.0.1:6500; port `*` takes a free
    one. `keys`: who may speak there; without them everybody who gets there. `is_over`: true when the launcher has given up all its
    replicas; the loop ends then, once no other replica is there."""

    def __init__(
        self,
        settings: CoordinatorSettings,
        clients: str = ANY_PORT,
        replicas: str = ANY_PORT,
        journal: Journal | None = None,
        say: Callable[[str], None] = say,
        operators: str = ANY_PORT,
        keys: Keys | None = None,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        self._is_over = is_over
        self._journal, self._say, self._keys = journal, say, keys
        self._base = time.time() - time.monotonic()  # so the clock goes on through a restart, and never jumps within a life
        # Every start of a coordinator numbers its placements from another place. Without a journal, which counts the starts, it
        # is drawn: two of four million are hardly ever equal.
        kept = (secrets.randbits(22),) if journal is None else (journal.life, journal.kept(), journal.pinned())
        self.machine = Coordinator(settings, self._now(), *kept)
        self._waker, self._context = Waker(), zmq.Context()
        self._guard: ThreadAuthenticator | None = None
        try:
            if keys is not None:
                self._guard = ThreadAuthenticator(self._context)
                self._guard.start()
                for role in ROLES:
                    self._guard.configure_curve(domain=role, location=str(keys.folder / role))
            self._sockets = {
                CLIENT: self._bind(clients, "clients"), REPLICA: self._bind(replicas, "replicas"),
                OPERATOR: self._bind(operators, "operators"),
            }  # fmt: skip
        except BaseException:
            if self._guard is not None:
                self._guard.stop()
            self._context.destroy(linger=0)
            self._waker.close()
            raise
        self._poller = zmq.Poller()
        self._processes = ProcessWatch(self._poller)
        self._is_ended = False
        self._dropped: Counter[str] = Counter()
        self._told = 0.0

    @property
    def addresses(self) -> tuple[str, str, str]:
        """Of clients, replicas and operators, with the ports that were found."""
        first, second, third = (socket.getsockopt_string(zmq.LAST_ENDPOINT) for socket in self._sockets.values())
        return first, second, third

    def has_had_replica(self) -> bool:
        """Whether one has joined so far; from any thread."""
        return self.machine.counts["replicas enrolled"] > 0

    def run(self) -> None:
        """Until `end` is called, the machine is stopped, or `is_over`. What the journal cannot take is raised, and nothing of that
        round is sent."""
        for socket in (*self._sockets.values(), self._waker):
            self._poller.register(socket, zmq.POLLIN)
        next_tick = self._now()
        try:
            while not self._is_ended:
                ready = self._poller.poll(max(0.0, next_tick - self._now()) * 1000)
                self._waker.drain()
                for kind in self._sockets:
                    self._read(kind)
                for handle, _ in ready:  # after its last words were read
                    self._look_after(handle)
                if self._now() >= next_tick:
                    self.machine.tick(self._now())
                    if self._is_over() and not self.machine.status().replicas:
                        break
                    self._tell_dropped()
                    next_tick = self._now() + TICK
                self._finish_round()
                if self.machine.state is ControlState.STOPPED:
                    break
        finally:
            self._close()

    def end(self) -> None:
        """From another thread or a signal's handler: as a kill would, at the end of a round."""
        self._is_ended = True
        self._waker.wake()

    def _bind(self, address: str, role: Role) -> zmq.Socket:
        check_port(address, "listen on", "give another, or * for a free one")
        socket = self._context.socket(zmq.ROUTER)
        if self._keys is not None:
            self._keys.serve(socket, role)
        socket.setsockopt(zmq.LINGER, 1000)  # the last words
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
        socket.setsockopt(zmq.SNDHWM, HIGH_WATER)
        socket.setsockopt(zmq.RCVHWM, HIGH_WATER)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # whoever is not there is known not to be there
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            socket.close(0)
            raise ConfigError(
                f"cannot listen on {address}: {zmq.strerror(error.errno)}; give another address, such as tcp://127.0.0.1:*"
            ) from error
        return socket

    def _now(self) -> float:
        return self._base + time.monotonic()

    def _read(self, kind: bytes) -> None:
        socket, machine = self._sockets[kind], self.machine
        for _ in range(MOST_A_ROUND):
            try:
                parts = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if len(parts) != 2:
                self._drop(kind, f"a message of {len(parts) - 1} parts")
                continue
            address = kind + parts[0]
            try:
                message = DECODE[kind](parts[1])
            except Exception as error:  # whatever a stranger finds to send
                if not self._show_the_way(kind, *parts):
                    self._drop(kind, f"a message that is none ({' '.join(str(error).split())[:100]})")
                continue
            if kind == CLIENT:
                machine.client_says(address, message, self._now(), secrets.randbits(64))
            elif kind == REPLICA:
                self._replica_says(address, message)
            else:
                machine.operator_says(address, message, self._now())

    def _show_the_way(self, kind: bytes, address: bytes, data: bytes) -> bool:
        """Somebody may have another's address. Whoever says what is said at another socket is told which one."""
        for (other, decode), where in zip(DECODE.items(), self.addresses, strict=True):
            try:
                decode(data)
            except Exception:  # as it was at this socket
                continue
            self._drop(kind, f"a word of {NAMES[other]}, who has to speak at {where}")
            error = f"this is the address for {ROOMS[kind]}; {ROOMS[other]} speak at {where}"
            answer = TurnedAway(error, "end") if other == REPLICA else Refused(None, error)
            with suppress(zmq.ZMQError):  # it has left
                self._sockets[kind].send_multipart([address, encode(answer)], zmq.NOBLOCK)
            return True
        return False

    def _replica_says(self, address: bytes, message: ReplicaMessage) -> None:
        self.machine.replica_says(address, message, self._now())
        if not isinstance(message, Register) or not self.machine.has_replica(address):
            return
        if not self._processes.watch(message.process, message.machine, address):
            self.machine.replica_ended(address, "its process ended", self._now())

    def _look_after(self, handle: object) -> None:
        address = self._processes.ended(handle) if isinstance(handle, int) else None
        if address is not None:
            self.machine.replica_ended(address, "its process ended", self._now())

    def _drop(self, kind: bytes, what: str) -> None:
        self.machine.counts["messages that were none"] += 1
        self._dropped[f"{NAMES[kind]} sent {what}"] += 1

    def _tell_dropped(self) -> None:
        if self._dropped and self._now() - self._told >= 1:
            (what, _), total = self._dropped.most_common(1)[0], self._dropped.total()
            self._say(f"coordinator: {total} messages dropped: {what}{'' if total == 1 else ', and the like'}")
            self._dropped.clear()
            self._told = self._now()

    def _finish_round(self) -> None:
        batch = self.machine.take()
        if self._journal is not None:
            self._journal.write(batch.records)
        gone: set[bytes] = set()  # whoever has missed something is sent nothing that came behind it
        for address, message in batch.sends:
            kind = address[:1]
            if address in gone:
                continue
            try:
                self._sockets[kind].send_multipart([address[1:], encode(message)], zmq.NOBLOCK)
            except zmq.ZMQError as error:
                if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                    raise
                # It is gone, or does not read. What it missed it asks for when it comes back.
                gone.add(address)
                self.machine.cut_off(address, self._now())

    def _close(self) -> None:
        for socket in self._sockets.values():
            socket.close(1000)
        self._waker.close()
        self._processes.close()
        if self._guard is not None:
            self._guard.stop()
        self._context.term()
        if self._journal is not None:
            self._journal.close()
