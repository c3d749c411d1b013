"""Replicas are started again after a pause that grows, and one that ends again and again is given up in words."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from brigade.errors import ConfigError
from brigade.replica import launcher
from brigade.replica.launcher import Keeper, LocalLauncher, clean_environment


@dataclass
class Toy:
    how: str | None = None
    words: list[str] = field(default_factory=list)
    why: str | None = None

    def refusal(self) -> str | None:
        return self.why

    def ended(self) -> str | None:
        return self.how

    def stop(self) -> None:
        self.words.append("stop")
        self.how = "it left"

    def kill(self) -> None:
        self.words.append("kill")


class Toys:
    def __init__(self) -> None:
        self.started: list[tuple[int, Toy]] = []

    def start(self, place: int) -> Toy:
        self.started.append((place, Toy()))
        return self.started[-1][1]


@pytest.fixture
def keeper() -> Keeper:
    """Looked at by hand: its thread does not run."""
    return Keeper(Toys(), 2, most_ends=3, say=lambda line: None)


def look(keeper: Keeper, now: float) -> None:
    for place in keeper._places:
        keeper._look(place, now)


def test_each_place_has_one(keeper: Keeper) -> None:
    look(keeper, 0.0)
    look(keeper, 1.0)
    assert [place for place, _ in keeper.launcher.started] == [0, 1]


def test_one_that_ended_is_started_again_after_a_pause_that_grows(keeper: Keeper) -> None:
    look(keeper, 0.0)
    now, pauses = 0.0, []
    for _ in range(2):
        keeper.launcher.started[-1][1].how = "it was killed by SIGKILL"
        look(keeper, now)
        ended, count = now, len(keeper.launcher.started)
        while len(keeper.launcher.started) == count:
            now += 0.01
            look(keeper, now)
        pauses.append(round(now - ended, 1))
    assert pauses == [0.5, 1.0] and {place for place, _ in keeper.launcher.started[1:]} == {1}


def test_one_that_cannot_even_be_started_is_one_that_ended() -> None:
    said: list[str] = []
    keeper = Keeper(LocalLauncher([["/no/such/command"]]), 1, most_ends=2, say=said.append)
    look(keeper, 1e6)
    look(keeper, 1e6 + 10)
    assert keeper._places[0].given_up and "it could not be started" in said[0] and "2 times in a row" in said[1]


def test_a_good_life_is_forgotten(keeper: Keeper) -> None:
    look(keeper, 0.0)
    for turn in range(1, 10):
        keeper.launcher.started[-1][1].how = "it ended with code 1"
        look(keeper, turn * 1000.0)
        look(keeper, turn * 1000.0 + 0.6)
    assert len(keeper.launcher.started) == 11 and not any(place.given_up for place in keeper._places)


def test_one_that_ends_again_and_again_is_given_up_and_the_other_is_not() -> None:
    said: list[str] = []
    keeper = Keeper(Toys(), 2, most_ends=3, say=said.append)
    look(keeper, 0.0)
    for turn in range(1, 5):
        if len(keeper.launcher.started) == turn + 1:
            keeper.launcher.started[-1][1].how = "it ended with code 2"
        look(keeper, turn * 10.0)
        look(keeper, turn * 10.0 + 5)
    assert keeper._places[1].given_up and not keeper._places[0].given_up and len(keeper.launcher.started) == 4
    assert said[-1] == "launcher: replica 1: it ended with code 2, 3 times in a row; it is not started again"


def test_a_first_start_that_is_refused_ends_all_at_once(keeper: Keeper) -> None:
    look(keeper, 0.0)
    (_, first), (_, second) = keeper.launcher.started
    first.how, first.why = "it ended with code 3", "block_size is 16; give 32"
    look(keeper, 1.0)
    look(keeper, 100.0)
    assert len(keeper.launcher.started) == 2 and second.words == ["stop"]
    with pytest.raises(ConfigError, match="^block_size is 16; give 32$"):
        keeper.check()


def test_a_refusal_of_settings_that_worked_before_is_an_end_like_others(keeper: Keeper) -> None:
    look(keeper, 0.0)
    keeper.launcher.started[0][1].how = "it was killed by SIGKILL"
    look(keeper, 1.0)
    look(keeper, 2.0)
    again = keeper.launcher.started[2][1]
    again.how, again.why = "it ended with code 3", "there is no memory"
    look(keeper, 3.0)
    look(keeper, 10.0)
    assert len(keeper.launcher.started) == 4 and keeper.failure is None
    keeper.check()


def test_a_first_start_that_is_refused_beside_one_that_works_is_an_end_like_others() -> None:
    """Replica 0 serves; replica 1 finds the memory taken that replica 0 needed while it loaded."""
    said: list[str] = []
    keeper = Keeper(Toys(), 2, most_ends=3, say=said.append, has_worked=lambda: True)
    look(keeper, 0.0)
    (_, first), (_, second) = keeper.launcher.started
    second.how, second.why = "it ended with code 3", "1 GB are free; the weights have 2 GB"
    look(keeper, 1.0)
    look(keeper, 2.0)
    assert first.words == [] and keeper.failure is None and [place for place, _ in keeper.launcher.started] == [0, 1, 1]
    why = "it ended with code 3 (1 GB are free; the weights have 2 GB)"
    assert said == [f"launcher: replica 1: {why}; it is started again in 0.5 s"]


@pytest.mark.parametrize(("code", "expected"), [(launcher.REFUSED, "too small"), (2, None)])
def test_a_process_says_on_its_standard_input_why_it_refuses(code: int, expected: str | None) -> None:
    words = f"import socket; socket.socket(fileno=0).sendall(b'too small'); raise SystemExit({code})"
    made = launcher.LocalProcess([sys.executable, "-c", words])
    made.process.wait(20)
    assert made.ended() == f"it ended with code {code}" and made.refusal() == expected


def test_with_nobody_left_it_says_why(monkeypatch) -> None:
    monkeypatch.setattr(launcher, "FIRST_PAUSE", 0.01)
    keeper = Keeper(LocalLauncher([[sys.executable, "-c", "raise SystemExit(3)"]]), 1, most_ends=2, say=lambda line: None)
    keeper.start()
    end = time.monotonic() + 20
    while keeper.failure is None and time.monotonic() < end:
        time.sleep(0.01)
    assert keeper.failure == "every replica ended 2 times in a row; the last one: it ended with code 3"
    keeper.close()


def test_closing_asks_first_and_then_kills(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(launcher, "LEAVE", 1.0)
    wait = "import pathlib, signal, sys, time; {}; pathlib.Path(sys.argv[1]).write_text('here'); time.sleep(60)"
    stubborn, willing = wait.format("signal.signal(signal.SIGTERM, signal.SIG_IGN)"), wait.format("pass")
    files = [tmp_path / "stubborn", tmp_path / "willing"]
    commands = [[sys.executable, "-c", code, str(file)] for code, file in zip((stubborn, willing), files, strict=True)]
    keeper = Keeper(LocalLauncher(commands), 2, say=lambda line: None)
    keeper.start()
    end = time.monotonic() + 30
    while not all(file.exists() for file in files) and time.monotonic() < end:
        time.sleep(0.01)
    processes = [place.running.process for place in keeper._places]
    keeper.close()
    assert [process.returncode for process in processes] == [-signal.SIGKILL, -signal.SIGTERM]


@pytest.mark.parametrize(("number", "how"), [(signal.SIGKILL, "killed by SIGKILL"), (40, "killed by signal 40")])
def test_how_a_process_was_killed_is_told_also_where_the_signal_has_no_name(number: int, how: str) -> None:
    made = launcher.LocalProcess([sys.executable, "-c", f"import os; os.kill(os.getpid(), {int(number)})"])
    made.process.wait()
    assert made.ended() == f"it was {how}"


def test_a_child_notices_that_its_launcher_is_gone() -> None:
    """However it goes: its standard input ends."""
    child = "import sys, os; print(os.getpid(), flush=True); sys.stdin.read()"
    code = (
        "import sys, time; from brigade.replica.launcher import LocalProcess\n"
        f"LocalProcess([sys.executable, '-c', {child!r}]); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    number = int(parent.stdout.readline())
    handle = os.pidfd_open(number)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    try:
        import select

        assert select.select([handle], [], [], 10)[0], "it is still there"
    finally:
        os.close(handle)
        parent.stdout.close()


def test_ranks_of_another_launcher_are_not_a_replicas(monkeypatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "3")
    monkeypatch.setenv("HOME", "/home")
    kept = clean_environment()
    assert kept["HOME"] == "/home" and not {"RANK", "WORLD_SIZE", "SLURM_PROCID", "LOCAL_WORLD_SIZE"} & set(kept)


@pytest.mark.parametrize(
    ("threads", "cpus", "shares"),
    [
        (3, None, [{"threads": 3}, {"threads": 3}]),
        (None, "0-1", [{"cpus": "0"}, {"cpus": "1"}]),
        (None, None, [{"threads": 1}, {"threads": 1}]),
    ],
)
def test_the_replicas_of_a_machine_share_its_processors(threads, cpus, shares, monkeypatch) -> None:
    monkeypatch.delenv("BRIGADE_CPUS", raising=False)
    monkeypatch.setattr("brigade.parallel.cores.allowed_threads", lambda: 4)
    assert launcher.share_of_processors(2, 2, threads, cpus) == shares


def test_no_restarts_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_restarts is 0"):
        Keeper(Toys(), 1, most_ends=0)
