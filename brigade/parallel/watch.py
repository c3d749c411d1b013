"""Who notices that a rank is gone, and what happens then.

The leader has a `Watch`: a thread that sees the death of every process of its host, reads the board for errors and for layers that
no rank finishes, and ends all ranks with one message. Every worker has a `Guard`: a thread that leaves, whatever the main thread
is doing, when the leader is gone or has said stop. Between hosts both speak through the store, twice a second.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from brigade.errors import RankFailed, in_one_line, signal_name
from brigade.parallel.board import Board, Facts, State, Stop
from brigade.parallel.rendezvous import MEETING
from brigade.parallel.setup import Setup

if TYPE_CHECKING:
    from torch.distributed import Store

LOOK = 0.1  # seconds between two looks
TELL = 0.5  # between two words to other hosts
SILENCE, SILENCE_OF_LOST = 6.0, 3.0  # after which a rank of another host counts as gone: the latter once some rank is known to be
SETTLE, SETTLE_LOST = 0.3, 4.0  # how long a rank with a reason of its own is looked for, once something is known
LEAVE = 3.0  # how long a worker may take to leave by itself


class Watch:
    """The leader's. `children`: the processes that it started itself, by their ranks."""

    def __init__(self, setup: Setup, board: Board, store: Store | None, children: Mapping[int, subprocess.Popen]) -> None:
        self.setup, self.board, self.children = setup, board, children
        self.store = store
        self.served: Store | None = None
        self.failure: RankFailed | None = None
        self._over = threading.Event()  # everybody is gone
        self._closing = threading.Event()
        self._ending, self._begun = threading.Lock(), time.monotonic()
        self._here = [rank for rank in setup.here(0) if rank != 0]
        self._elsewhere = [rank for rank in range(1, setup.mesh.world) if rank not in setup.here(0)] if store else []
        self._pidfds: dict[int, int] = {}
        self._gone: dict[int, str] = {}
        self._heard: dict[int, tuple[float, int, Facts]] = {}  # of ranks elsewhere: when, which beat, and what
        self._told, self._beat = 0.0, 0
        self._silence = SILENCE
        self._since: float | None = None  # when the step under way began
        self._layers: list[int] = []  # finished by every rank, and when one of them was the last time
        self._moved = 0.0
        self._thread = threading.Thread(target=self._run, name="brigade-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def all_are_here(self) -> None:
        """The leader has met all ranks: from now on none may be silent."""
        nothing = time.monotonic(), -1, Facts(0, State.STARTING, 0)
        for rank in self._elsewhere:
            self._heard.setdefault(rank, nothing)

    def step_under_way(self, under_way: bool) -> None:
        self._since = time.monotonic() if under_way else None

    def layers(self) -> int:
        """Finished by all ranks since they began, as far as it is known here."""
        here = [self.board.facts(rank) for rank in (0, *self._here)]
        return sum(facts.layers for facts in (*here, *(facts for _, _, facts in list(self._heard.values()))))

    def verdict(self, cause: BaseException | None = None) -> RankFailed:
        """For whoever waited in vain: what happened, once everybody is gone."""
        self._silence = SILENCE_OF_LOST
        end = time.monotonic() + SILENCE + SETTLE_LOST + LEAVE
        while not self._over.wait(LOOK) and not self._closing.is_set():
            if time.monotonic() > end:
                self._end(0, f"lost another rank, and none of them shows why ({cause})")
        if self.failure is None:
            return RankFailed("the ranks were closed while one waited for another")
        heard = RankFailed(str(self.failure))
        for note in getattr(self.failure, "__notes__", ()):
            heard.add_note(note)
        return heard

    def close(self) -> None:
        """Everybody leaves: by themselves, or they are killed. Does nothing where they have been ended already."""
        with self._ending:
            self._closing.set()
            if self.failure is None:
                self.board.stop(Stop.CLOSING)
                self._tell_stop(Stop.CLOSING)
                self._reap(LEAVE + 1)
                self._wait_until_heard(LEAVE)
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout=2)
        for pidfd in self._pidfds.values():
            os.close(pidfd)
        self._pidfds.clear()

    def _run(self) -> None:
        """Whatever becomes of it, the ranks are ended: without this thread nobody would find out that they wait in vain."""
        try:
            while not self._closing.is_set() and self.failure is None:
                self._look(LOOK)
                found = self._evidence() or self._hang()
                if found is not None and not self._closing.is_set():
                    return self._end(*self._settled(found))
        except BaseException as error:
            self._end(0, f"could not watch the others ({in_one_line(error)})")

    def _look(self, seconds: float) -> None:
        """See who has died here, and hear how the others are."""
        for rank in self._here:
            process = self.children[rank].pid if rank in self.children else self.board.facts(rank).process
            if rank not in self._pidfds and process:
                try:
                    self._pidfds[rank] = os.pidfd_open(process)
                except ProcessLookupError:
                    self._gone.setdefault(rank, "ended")
            elif not process and time.monotonic() > self._begun + MEETING.total_seconds():
                self._gone.setdefault(rank, f"did not begin within {MEETING}")
        poller = select.poll()
        for rank, pidfd in self._pidfds.items():
            if rank not in self._gone:
                poller.register(pidfd, select.POLLIN)
        by_fd = {pidfd: rank for rank, pidfd in self._pidfds.items()}
        for pidfd, _ in poller.poll(seconds * 1000):
            self._gone[by_fd[pidfd]] = self._death(by_fd[pidfd])
        if self.store is not None and time.monotonic() > self._told + TELL:
            self._hear()

    def _death(self, rank: int) -> str:
        child = self.children.get(rank)
        code = None if child is None else child.wait()
        if code is not None and code < 0:
            name = signal_name(-code)
            return f"died by signal {-code}" + (f" ({name})" if name else "")
        return "ended before its time" + ("" if code is None else f" with exit code {code}")

    def _hear(self) -> None:
        """The store's word: how ranks of other hosts are. The leader's own beat tells them that it lives."""
        self._told, self._beat = time.monotonic(), self._beat + 1
        try:
            self.store.set("alive", str(self._beat))
            for rank in self._elsewhere:
                if not self.store.check([f"facts/{rank}"]):
                    continue
                beat, given = json.loads(self.store.get(f"facts/{rank}"))
                if rank not in self._heard or self._heard[rank][1] != beat:
                    self._heard[rank] = time.monotonic(), beat, Facts(**given)
        except Exception as error:
            self._gone.setdefault(0, f"lost the store at which the hosts meet ({type(error).__name__}: {error})")
        for rank in self._elsewhere:
            if rank in self._heard and time.monotonic() > self._heard[rank][0] + self._silence:
                self._gone.setdefault(rank, f"has not been heard of for {self._silence:.0f} s")
            elif rank not in self._heard and time.monotonic() > self._begun + MEETING.total_seconds():
                self._gone.setdefault(rank, f"did not begin within {MEETING}")

    def _facts(self, rank: int) -> Facts:
        if rank in self._elsewhere:
            return self._heard[rank][2] if rank in self._heard else Facts(0, State.STARTING, 0)
        return self.board.facts(rank)

    def _evidence(self) -> tuple[bool, int, str] | None:
        """Whether it is a reason of its own, the rank, and what happened to it: the best that is known."""
        errors = {rank: facts for rank in range(1, self.setup.mesh.world) if (facts := self._facts(rank)).error}
        own = sorted((self._when(rank, facts), rank) for rank, facts in errors.items() if not facts.lost)
        if own:
            return True, own[0][1], f"raised {errors[own[0][1]].error}"
        for rank, death in self._gone.items():
            if rank not in errors:
                return True, rank, death
        for rank, facts in errors.items():
            self._silence = SILENCE_OF_LOST
            return False, rank, f"raised {facts.error}"
        return None

    def _when(self, rank: int, facts: Facts) -> float:
        """When an error came, by the clock of this host: of a rank elsewhere, when it was heard."""
        return self._heard[rank][0] if rank in self._elsewhere else facts.when

    def _settled(self, found: tuple[bool, int, str]) -> tuple[int, str]:
        """The first rank that failed for a reason of its own wins over those that only lost it."""
        start = time.monotonic()
        while time.monotonic() < start + (SETTLE if found[0] else SETTLE_LOST) and not self._closing.is_set():
            self._look(0)
            found = self._evidence() or found
            time.sleep(LOOK / 2)
        return found[1:]

    def _hang(self) -> tuple[bool, int, str] | None:
        since, limit = self._since, self.setup.rank_timeout
        if since is None:
            return None
        facts = [self._facts(rank) for rank in range(self.setup.mesh.world)]
        layers = [each.layers for each in facts]
        if layers != self._layers:
            self._layers, self._moved = layers, time.monotonic()
        if time.monotonic() < max(since, self._moved) + limit:
            return None
        what = (
            f"a step is under way, and for {limit:g} s no rank has finished a layer; if steps may take longer, raise --rank-timeout"
        )
        stopped = [rank for rank, each in enumerate(facts) if rank not in self._elsewhere and _is_stopped(each.process)]
        busy = stopped or [rank for rank, each in enumerate(facts) if each.state != State.WAITING]
        if busy:
            return True, busy[-1], f"hangs: {what}"
        return True, 0, f"waits, as all other ranks do: {what}"

    def _end(self, rank: int, what: str) -> None:
        with self._ending:
            if self._closing.is_set() or self.failure is not None:
                return
            first, _, rest = what.partition("\n")
            self.failure = RankFailed(f"{self.setup.mesh.name(rank)} {first}; all ranks were ended")
            if rest:
                self.failure.add_note(rest)
            try:
                self.board.stop(Stop.FAILED)
                self._tell_stop(Stop.FAILED)
                for child in self.children.values():
                    child.kill()
                self._reap(2 * LOOK if self.children else LEAVE)
            finally:
                self._over.set()  # who waits for the verdict waits no longer, whatever went wrong here

    def _tell_stop(self, why: Stop) -> None:
        if self.store is not None:
            with contextlib.suppress(Exception):
                self.store.set("stop", why.name)

    def _wait_until_heard(self, seconds: float) -> None:
        """The store may be this process's own: it goes when all others know why."""
        end = time.monotonic() + seconds
        with contextlib.suppress(Exception):
            while (
                self._elsewhere and not self.store.check([f"heard/{rank}" for rank in self._elsewhere]) and time.monotonic() < end
            ):
                time.sleep(LOOK / 2)

    def _reap(self, seconds: float) -> None:
        """Wait for those of this host, then kill who is left."""
        end = time.monotonic() + seconds
        for rank in self._here:
            self._wait(rank, end - time.monotonic())
        for rank, pidfd in self._pidfds.items():
            if rank not in self.children and rank not in self._gone:
                with contextlib.suppress(OSError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        for child in self.children.values():
            child.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=5)

    def _wait(self, rank: int, seconds: float) -> None:
        if rank in self.children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.children[rank].wait(timeout=max(seconds, 0.001))
        elif rank in self._pidfds and rank not in self._gone:
            poller = select.poll()
            poller.register(self._pidfds[rank], select.POLLIN)
            if poller.poll(max(seconds, 0) * 1000):
                self._gone[rank] = "ended"


def _is_stopped(process: int) -> bool:
    """By a signal or a debugger: then what it last said of itself, such as that it waits, means nothing."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    return False


class Guard:
    """A worker's. Where the leader is on this host, its process is watched."""

    def __init__(self, setup: Setup, rank: int, board: Board, store: Store | None) -> None:
        self.setup, self.rank, self.board = setup, rank, board
        self.store = store
        self._leader = os.pidfd_open(setup.leader) if 0 in setup.here(rank) else None
        self._told, self._beat = 0.0, 0
        self._alive, self._when = b"", time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="brigade-guard", daemon=True)

    def start(self) -> None:
        self._thread.start()
        atexit.register(self._end)

    def _end(self) -> None:
        """Before the interpreter ends: a thread that is inside the store by then would take the process down with it."""
        self._over.set()
        self._thread.join(LEAVE)

    def lost(self, cause: BaseException | None) -> BaseException:
        """What the main thread raises where it waited in vain: in good order when the leader closes."""
        if self.board.stopped is Stop.CLOSING:
            return SystemExit(0)
        return RankFailed("another rank is gone" + (f" ({str(cause).splitlines()[0]})" if cause and str(cause) else ""), lost=True)

    def _run(self) -> None:
        poller = select.poll()
        if self._leader is not None:
            poller.register(self._leader, select.POLLIN)
        while not self._over.is_set():
            if poller.poll(LOOK * 1000) and self._leader is not None:
                os._exit(1)
            if self.store is not None and time.monotonic() > self._told + TELL:
                self._tell()
            if self.board.stopped is Stop.FAILED:
                os._exit(1)
            if self.board.stopped is Stop.CLOSING:
                self._leave()

    def _leave(self) -> None:
        """The main thread leaves by itself as soon as it waits in shared memory; in the process group it would wait for ever."""
        end, idle = time.monotonic() + LEAVE, 0
        while time.monotonic() < end and idle < 4:
            idle = idle + 1 if self.board.facts(self.rank).state == State.WAITING else 0
            if self._over.wait(LOOK):
                return
        os._exit(0)

    def tell_how_it_is(self) -> None:
        """For a leader on another host."""
        self._beat += 1
        if self.store is not None:
            with contextlib.suppress(Exception):
                self.store.set(f"facts/{self.rank}", json.dumps([self._beat, asdict(self.board.facts(self.rank))]))

    def _tell(self) -> None:
        """How this rank is, and how the leader is."""
        self._told = time.monotonic()
        self.tell_how_it_is()
        try:
            if self.store.check(["stop"]):
                self.board.stop(Stop[self.store.get("stop").decode()])
                self.store.set(f"heard/{self.rank}", "")
            alive = self.store.get("alive") if self.store.check(["alive"]) else b""
        except Exception:  # the store went with its host
            os._exit(0 if self.board.stopped is Stop.CLOSING else 1)
        if alive != self._alive or not alive:
            self._alive, self._when = alive, time.monotonic()
        if self._leader is None and time.monotonic() > self._when + SILENCE:
            os._exit(1)
