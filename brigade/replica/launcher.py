"""Who starts replicas, and starts them again: one small interface, and what keeps a number of them running.

`LocalLauncher` starts processes of this machine. Replicas that srun, torchrun or somebody by hand has started need none: they
register by the coordinator's address. A launcher for another kind of cluster has the same two classes.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from brigade.coordinator.words import say
from brigade.errors import ConfigError, in_one_line, signal_name
from brigade.parallel.cores import share_out

LOOK = 0.1  # seconds between two looks
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before a replica is started again: twice as long each time
GOOD_LIFE = 600.0  # seconds after which an end is the first again: longer than any model takes to load
LEAVE = 10.0  # seconds that a replica has to leave by itself
REFUSED = 3  # the exit code of a replica that cannot work with its settings: another start would end the same way
RENAMED = {"import_modules": "import"}  # options that have another name than their setting


class Running(Protocol):
    """A replica that was started."""

    def ended(self) -> str | None:
        """How it ended; None while it runs."""

    def refusal(self) -> str | None:
        """Of one that ended: why it cannot work with its settings, in one line; None where it ended of something else."""

    def stop(self) -> None:
        """Ask it to leave."""

    def kill(self) -> None:
        """End it whatever it does."""


class Launcher(Protocol):
    def start(self, place: int) -> Running:
        """Start the replica of this place, from 0 on."""


class LocalProcess:
    def __init__(self, command: Sequence[str], environment: dict[str, str] | None = None) -> None:
        # A group of its own, so that Ctrl-C in the terminal is the launcher's to pass on. Its standard input closes when this
        # process is gone, however it goes. It is a socket, so that a replica can say there why it refuses its settings.
        self._line, its = socket.socketpair()
        with its:
            try:
                self.process = subprocess.Popen(command, stdin=its, env=environment, start_new_session=True)
            except BaseException:
                self._line.close()
                raise

    def ended(self) -> str | None:
        code = self.process.poll()
        if code is None:
            return None
        if code >= 0:
            return f"it ended with code {code}"
        return f"it was killed by {signal_name(-code) or f'signal {-code}'}"

    def refusal(self) -> str | None:
        if self.process.returncode != REFUSED:
            return None
        self._line.setblocking(False)
        try:
            return self._line.recv(1 << 16).decode(errors="replace") or None
        except OSError:
            return None

    def stop(self) -> None:
        with suppress(ProcessLookupError):
            self.process.terminate()

    def kill(self) -> None:
        """Its ranks notice by themselves that their leader is gone."""
        self.process.kill()
        self.process.wait()


class LocalLauncher:
    """`commands`: of each place."""

    def __init__(self, commands: Sequence[Sequence[str]], environment: dict[str, str] | None = None) -> None:
        self.commands, self.environment = commands, environment

    def start(self, place: int) -> LocalProcess:
        return LocalProcess(self.commands[place], self.environment)


def replica_command(settings: Mapping[str, Any]) -> list[str]:
    """`brigade replica` with these options, by their names in Python. It leaves when its launcher is gone."""
    return [sys.executable, "-m", "brigade.cli.main", "replica", *as_options(settings), "--leave-with-stdin"]


def as_options(settings: Mapping[str, Any]) -> list[str]:
    words: list[str] = []
    for name, value in settings.items():
        option = f"--{RENAMED.get(name, name).replace('_', '-')}"
        if isinstance(value, bool):  # a flag that is not as it is without it
            words.append(option if value else f"--no-{name.replace('_', '-')}")
        elif name == "import_modules":
            words += [word for module in value for word in (option, module)]
        else:
            words += [option, ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)]
    return words


def share_of_processors(replicas: int, ranks: int, threads: int | None, cpus: str | None) -> list[dict[str, Any]]:
    """Of each replica of this machine, which has so many ranks: the settings that keep it to its share. `threads`: of each rank;
    `cpus`: of all together."""
    if threads is not None and cpus is None:
        return [{"threads": threads}] * replicas
    if cpus is not None or os.environ.get("BRIGADE_CPUS"):
        return [{"cpus": one.cpus} for one in share_out(replicas, threads, cpus)]
    return [{"threads": share_out(replicas * ranks)[0].threads}] * replicas


@dataclass(slots=True)
class _Place:
    number: int
    running: Running | None = None
    begun: float = 0.0
    ends: int = 0  # one shortly after the other
    again_at: float = 0.0
    given_up: bool = False
    reason: str = ""  # how it ended last


class Keeper:
    """Keeps a replica at each place. One that ends too often in a row is given up; with nobody left, `failure` says why.

    Where a first start is refused by the replica itself, all are ended at once: the settings are wrong. Later they were right
    before, and so they are where `has_worked` says that a replica has joined already: what it lacks may be memory that another
    takes while it loads, or a hub that is away. Nobody who serves is ended for that."""

    def __init__(
        self,
        launcher: Launcher,
        places: int,
        most_ends: int = 5,
        say: Callable[[str], None] = say,
        has_worked: Callable[[], bool] = lambda: False,
    ) -> None:
        if most_ends < 1:
            raise ConfigError(f"max_restarts is {most_ends}; it must be 1 or more")
        self.launcher, self.most_ends, self.say, self._has_worked = launcher, most_ends, say, has_worked
        self.failure: str | None = None
        self._refusal: str | None = None
        self._places = [_Place(number) for number in range(places)]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="brigade-keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def running(self, place: int) -> Running | None:
        return self._places[place].running

    def check(self) -> None:
        """Raises the failure, if there is one."""
        if self._refusal is not None:
            raise ConfigError(self._refusal)
        if self.failure is not None:
            raise ConfigError(f"no replica is left: {self.failure}; their own messages are above")

    def close(self) -> None:
        """Every replica leaves, or is ended."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(5)
        running = [place.running for place in self._places if place.running is not None]
        for one in running:
            one.stop()
        until = time.monotonic() + LEAVE
        while time.monotonic() < until and any(one.ended() is None for one in running):
            time.sleep(LOOK / 2)
        for one in running:
            if one.ended() is None:
                one.kill()

    def _run(self) -> None:
        try:
            self._keep()
        except Exception as error:  # nobody would start anything again, and nobody would know
            self.failure = f"the launcher failed ({in_one_line(error)})"

    def _keep(self) -> None:
        while not self._over.wait(LOOK):
            for place in self._places:
                self._look(place, time.monotonic())
            if self.failure is None and all(place.given_up for place in self._places):
                self.failure = f"every replica ended {self.most_ends} times in a row; the last one: {self._places[-1].reason}"

    def _look(self, place: _Place, now: float) -> None:
        if place.given_up or self._over.is_set():
            return
        if place.running is None:
            if now < place.again_at:
                return
            place.begun = now
            try:
                place.running = self.launcher.start(place.number)
                return
            except OSError as error:
                how: str | None = f"it could not be started ({error})"
        else:
            how = place.running.ended()
        if how is None:
            return
        refusal = None if place.running is None else place.running.refusal()
        place.running = None
        if refusal is not None:
            if not place.ends and not self._has_worked():
                return self._refuse(refusal)
            how = f"{how} ({refusal})"  # it has said that to nobody else
        place.ends = 1 if now - place.begun >= GOOD_LIFE else place.ends + 1
        place.reason = how
        if place.ends >= self.most_ends:
            place.given_up = True
            self.say(f"launcher: replica {place.number}: {how}, {place.ends} times in a row; it is not started again")
            return
        pause = min(FIRST_PAUSE * 2 ** (place.ends - 1), LONGEST_PAUSE)
        place.again_at = now + pause
        self.say(f"launcher: replica {place.number}: {how}; it is started again in {pause:g} s")

    def _refuse(self, refusal: str) -> None:
        """`failure` is set last: whoever sees it finds the reason."""
        for place in self._places:
            place.given_up = True
            if place.running is not None:
                place.running.stop()
        self._refusal = refusal
        self.failure = f"a replica refused its settings: {refusal}"


def clean_environment() -> dict[str, str]:
    """Without what torchrun or Slurm set for this process: each replica finds or makes ranks of its own."""
    foreign = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")
    return {name: value for name, value in os.environ.items() if name not in foreign and not name.startswith("SLURM_")}
