"""The clients and replicas of the simulated world, on real sockets, around a loop that runs in a thread."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import zmq

from brigade.coordinator.journal import Journal
from brigade.coordinator.loop import ANY_PORT, Loop
from brigade.coordinator.messages import Alive
from brigade.coordinator.settings import CoordinatorSettings
from tests.coordinator.world import SimClient, SimReplica


class Wires:
    """What `SimClient` and `SimReplica` take for their world: each address is a connection."""

    def __init__(self, folder: Path | None = None, **settings) -> None:
        self.settings = CoordinatorSettings(**settings)
        self.folder = folder
        self.context = zmq.Context()
        self.sockets: dict[bytes, zmq.Socket] = {}
        self.inboxes: dict[bytes, deque[bytes]] = {}
        self.to_coordinator = self  # both only append to it
        self.placements: set[int] = set()
        self.clients: list[SimClient] = []
        self.replicas: list[SimReplica] = []
        self.said: list[str] = []
        self.made = 0
        self.error: Exception | None = None
        self.ports = (ANY_PORT, ANY_PORT, ANY_PORT)
        self.begin()

    def begin(self) -> None:
        journal = None if self.folder is None else Journal(self.folder / "journal")
        clients, replicas, operators = self.ports
        self.loop = Loop(self.settings, clients, replicas, journal, self.said.append, operators)
        self.ports = self.loop.addresses
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.loop.run()
        except Exception as error:
            self.error = error

    def stop(self) -> None:
        self.loop.end()
        self.thread.join(10)
        assert not self.thread.is_alive()

    def close(self) -> None:
        self.stop()
        self.context.destroy(linger=0)

    def append(self, entry: tuple[bytes, bytes]) -> None:
        address, data = entry
        self.socket(address).send(data)

    def socket(self, address: bytes) -> zmq.Socket:
        if address not in self.sockets:
            made = self.sockets[address] = self.context.socket(zmq.DEALER)
            made.connect(self.ports[0 if address.startswith(b"client") else 1])
        return self.sockets[address]

    def cut(self, address: bytes) -> None:
        self.sockets.pop(address).close(0)
        self.inboxes.pop(address, None)

    def kill(self, replica: SimReplica, is_seen: bool = True) -> None:
        self.replicas.remove(replica)
        self.cut(replica.address)

    def new_client(self) -> SimClient:
        self.clients.append(SimClient(self, b"%d" % len(self.clients)))
        return self.clients[-1]

    def new_replica(self, capacity: int = 4) -> SimReplica:
        self.made += 1
        self.replicas.append(SimReplica(self, f"replica {self.made}", capacity))
        return self.replicas[-1]

    def turn(self, step: bool = True) -> None:
        """Everybody reads what has come, and every replica computes a step."""
        for address, socket in list(self.sockets.items()):
            while True:
                try:
                    self.inboxes[address].append(socket.recv(zmq.NOBLOCK))
                except zmq.Again:
                    break
        for who in (*self.clients, *self.replicas):
            inbox = self.inboxes.get(who.address)
            while inbox and self.inboxes.get(who.address) is inbox:
                who.hear(inbox.popleft())
        for replica in list(self.replicas):
            if step and not replica.is_frozen:
                replica.step()
        for client in self.clients:
            client.say(Alive())

    def until(self, done: Callable[[], bool], seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, "it takes too long"
            assert self.error is None, self.error
            self.turn()
            time.sleep(0.002)

    def all_over(self) -> bool:
        return all(one.is_over for client in self.clients for one in client.asked.values())

    def check(self) -> None:
        for client in self.clients:
            for one in client.asked.values():
                for index, said in enumerate(one.tokens):
                    assert one.ends[index] == "length" and said == one.expected(index)
