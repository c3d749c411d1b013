"""A coordinator in this process with replicas of this machine, for whoever needs both for a while."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from brigade.coordinator.journal import Journal
from brigade.coordinator.loop import Loop
from brigade.coordinator.settings import CoordinatorSettings
from brigade.replica.launcher import Keeper, LocalLauncher, clean_environment


@contextmanager
def local_fleet(
    commands: Callable[[str], Sequence[Sequence[str]]],
    restarts: int,
    journal: Journal | None = None,
) -> Iterator[tuple[str, Keeper]]:
    """The coordinator's address for clients, and who keeps the replicas running. `commands` starts each of them, given the address
    for replicas. Whoever uses it ends when the keeper has failed; until then the coordinator answers."""
    with ExitStack() as stack:
        loop = Loop(CoordinatorSettings(), journal=journal)
        thread = threading.Thread(target=loop.run, name="brigade-coordinator", daemon=True)
        thread.start()
        stack.callback(thread.join, 10)
        stack.callback(loop.end)
        started = commands(loop.addresses[1])
        launcher, has_worked = LocalLauncher(started, clean_environment()), loop.has_had_replica
        keeper = Keeper(launcher, len(started), restarts, has_worked=has_worked)
        keeper.start()
        stack.callback(keeper.close)
        yield loop.addresses[0], keeper
