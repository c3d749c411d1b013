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
    ends_with_replicas: bool = False,
) -> Iterator[tuple[str, Keeper]]:
    """The coordinator's address for clients, and who keeps the replicas running. `commands` starts each of them, given the address
    for replicas. `ends_with_replicas`: the coordinator ends once none of them is started again."""
    with ExitStack() as stack:
        keeper: Keeper | None = None

        def is_over() -> bool:
            return ends_with_replicas and keeper is not None and keeper.failure is not None

        loop = Loop(CoordinatorSettings(), journal=journal, is_over=is_over)
        thread = threading.Thread(target=loop.run, name="brigade-coordinator", daemon=True)
        thread.start()
        stack.callback(thread.join, 10)
        stack.callback(loop.end)
        started = commands(loop.addresses[1])
        keeper = Keeper(LocalLauncher(started, clean_environment()), len(started), restarts)
        keeper.start()
        stack.callback(keeper.close)
        yield loop.addresses[0], keeper
