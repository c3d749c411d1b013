"""Progress on a stream that is no terminal: a plain line now and then, and a last one."""

from __future__ import annotations

import pytest

from brigade.cli import progress
from brigade.cli.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def test_a_line_every_few_seconds_and_the_last_one_says_the_total(clock: Clock, capsys) -> None:
    shown = Progress("windows")
    for done in range(1, 13):
        clock.now += 1.0
        shown(done, 12)
    shown.close()
    assert capsys.readouterr().err.splitlines() == ["windows: 5 of 12", "windows: 10 of 12", "windows: 12 of 12"]


def test_no_line_comes_twice(clock: Clock, capsys) -> None:
    shown = Progress("windows")
    for done in range(1, 6):
        clock.now += 1.0
        shown(done, 5)
    shown.close()
    assert capsys.readouterr().err.splitlines() == ["windows: 5 of 5"]


def test_short_work_says_nothing(clock: Clock, capsys) -> None:
    shown = Progress("windows")
    for done in range(1, 5):
        clock.now += 1.0
        shown(done, 4)
    shown.close()
    assert capsys.readouterr().err == ""


def test_one_that_is_used_again_begins_anew(clock: Clock, capsys) -> None:
    shown = Progress("windows")
    for done in range(1, 8):
        clock.now += 1.0
        shown(done, 7)
    shown.close()
    shown(3, 3)
    shown.close()
    assert capsys.readouterr().err.splitlines() == ["windows: 5 of 7", "windows: 7 of 7"]
