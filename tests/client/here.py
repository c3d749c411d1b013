"""A coordinator and replicas on threads of this process, with real sockets between them and to the clients."""

from __future__ import annotations

import threading
from pathlib import Path

from brigade import LLM
from brigade.client import Client
from brigade.coordinator.journal import Journal
from brigade.coordinator.keys import Keys
from brigade.coordinator.loop import ANY_PORT, Loop
from brigade.coordinator.settings import CoordinatorSettings
from brigade.replica.replica import Replica


class Here:
    def __init__(self, folder: Path | None = None, keys: Keys | None = None, **settings) -> None:
        self.settings, self.folder, self.keys = CoordinatorSettings(**settings), folder, keys
        self.ports = (ANY_PORT, ANY_PORT, ANY_PORT)
        self.replicas: dict[Replica, threading.Thread] = {}
        self.errors: dict[str, BaseException] = {}
        self.said: list[str] = []
        self.begin()

    def begin(self) -> None:
        journal = None if self.folder is None else Journal(self.folder / "journal")
        clients, replicas, operators = self.ports
        self.loop = Loop(self.settings, clients, replicas, journal, self.said.append, operators, self.keys)
        self.ports = self.loop.addresses
        self.thread = threading.Thread(target=self.loop.run, daemon=True)
        self.thread.start()

    def end(self) -> None:
        """As a kill would."""
        self.loop.end()
        self.thread.join(10)
        assert not self.thread.is_alive()

    def replica(self, llm: LLM, name: str, **more) -> Replica:
        made = Replica(llm, self.ports[1], name=name, say=self.said.append, keys=self.keys, **more)
        thread = self.replicas[made] = threading.Thread(target=self._run, args=(made,), daemon=True)
        thread.start()
        return made

    def _run(self, replica: Replica) -> None:
        try:
            replica.run()
        except BaseException as error:
            self.errors[replica.name] = error

    def leave(self, replica: Replica) -> None:
        replica.leave()
        self.replicas.pop(replica).join(10)

    def client(self, **more) -> Client:
        return Client(self.ports[0], "small", **more)

    def close(self) -> None:
        for replica in list(self.replicas):
            self.leave(replica)
        self.end()
