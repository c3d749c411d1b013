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


def work(shown: Progress, clock: Clock, total: int) -> None:
    """A piece a second."""
    for done in range(1, total + 1):
        clock.now += 1.0
        shown(done, total)
    shown.close()


@pytest.mark.parametrize(
    ("total", "lines"),
    [
        pytest.param(12, ["5 of 12", "10 of 12", "12 of 12"], id="every few seconds, and the last one says the total"),
        pytest.param(5, ["5 of 5"], id="none twice"),
        pytest.param(4, [], id="short work says nothing"),
    ],
)
def test_lines_that_come(total: int, lines: list[str], clock: Clock, capsys) -> None:
    work(Progress("windows"), clock, total)
    assert capsys.readouterr().err.splitlines() == [f"windows: {line}" for line in lines]


def test_one_that_is_used_again_begins_anew(clock: Clock, capsys) -> None:
    shown = Progress("windows")
    work(shown, clock, 7)
    shown(3, 3)
    shown.close()
    assert capsys.readouterr().err.splitlines() == ["windows: 5 of 7", "windows: 7 of 7"]
