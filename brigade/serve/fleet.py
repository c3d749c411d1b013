"""Replicas behind a coordinator, for a server that starts them itself or asks those of somebody else."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from brigade.coordinator.loop import Loop
from brigade.coordinator.messages import Identity
from brigade.coordinator.settings import CoordinatorSettings
from brigade.errors import ConfigError
from brigade.replica.launcher import Keeper, LocalLauncher, clean_environment, replica_command

NAME = "model"  # that the replicas serve as: what requests call it is the server's affair
RESTARTS = 5
START = 3600.0  # seconds that the largest model may take to load


@contextmanager
def local_coordinator(settings: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Keeper]]:
    """A coordinator in this process, and a replica for each of these settings: its address for clients, and who keeps them running.
    No journal: the only client is in this process too."""
    with ExitStack() as stack:
        keeper: Keeper | None = None
        loop = Loop(CoordinatorSettings(), is_over=lambda: keeper is not None and keeper.failure is not None)
        thread = threading.Thread(target=loop.run, name="brigade-coordinator", daemon=True)
        thread.start()
        stack.callback(thread.join, 10)
        stack.callback(loop.end)
        commands = [
            replica_command({"connect": loop.addresses[1], "serve_as": NAME, "name": f"local-{place}", **one})
            for place, one in enumerate(settings)
        ]
        keeper = Keeper(LocalLauncher(commands, clean_environment()), len(commands), RESTARTS)
        keeper.start()
        stack.callback(keeper.close)
        yield loop.addresses[0], keeper


def wait_for_replica(client: Any, keeper: Keeper | None = None, timeout: float = START) -> Identity:
    """Of the first replica that works."""
    until = time.monotonic() + timeout
    while True:
        found = [one.identity for one in client.status().replicas if one.model == client.model]
        if found:
            return found[0]
        if keeper is not None and keeper.failure is not None:
            raise ConfigError(f"no replica is left: {keeper.failure}; their own messages are above")
        if time.monotonic() > until:
            raise ConfigError(f"no replica of {client.model} came to {client.address} in {timeout:g} s; start one")
        time.sleep(0.1)
