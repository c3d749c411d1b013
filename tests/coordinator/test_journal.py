"""The journal: what was written is there after a kill, what is torn is refused in one line, and nothing is lost in silence."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from brigade.coordinator.journal import Journal
from brigade.coordinator.messages import Ask, Identity
from brigade.coordinator.records import Acceptance, Ending, Pinned, Unpinned
from brigade.errors import ConfigError

ROOT = Path(__file__).parents[2]
IDENTITY = Identity("numerics", "fingerprint", 128)


def accepted(number: int, client: bytes = b"a") -> Acceptance:
    ask = Ask("model", [1, 2, number % 100], 2, -1, 2**64 - 1, {"temperature": 0.5, "stop": ["x"]}, 3.5)
    return Acceptance(client, number, ask, None if number % 2 else number % 1000 + 0.25)


def test_what_was_accepted_and_has_not_ended_comes_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.write([Pinned("model", IDENTITY), accepted(1), accepted(2), accepted(2**64 - 1, b"\x00b")])
    journal.write([Ending(b"a", 1), accepted(3), Ending(b"a", 99)])
    journal.write([Ending(b"\x00b", 2**64 - 1), accepted(2**63, b"\x00b")])
    journal.close()
    again = Journal(tmp_path / "j")
    assert sorted(again.kept(), key=lambda one: one.number) == [accepted(2), accepted(3), accepted(2**63, b"\x00b")]
    assert again.pinned() == [Pinned("model", IDENTITY)]
    again.write([Unpinned("model"), Unpinned("no such model")])
    assert again.pinned() == []


def test_every_start_is_another_life(tmp_path: Path) -> None:
    for life in (1, 2, 3):
        journal = Journal(tmp_path / "j")
        assert journal.life == life
        journal.close()


KILLED = """
import os, signal, sys
from brigade.coordinator.journal import Journal
from brigade.coordinator.messages import Ask
from brigade.coordinator.records import Acceptance
journal = Journal(sys.argv[1])
for number in range(100_000):
    journal.write([Acceptance(b"a", number, Ask("m", "x" * 200), None)])
    print(number, flush=True)
"""


def test_whatever_was_written_before_a_kill_is_there(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "j")], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert child.stdout is not None
    for _ in range(300):
        last = int(child.stdout.readline())
    os.kill(child.pid, signal.SIGKILL)
    rest = child.stdout.read().split("\n")
    last = max([last, *(int(line) for line in rest[:-1] if line)])  # a line that is whole was written before
    child.wait()
    numbers = sorted(one.number for one in Journal(tmp_path / "j").kept())
    assert numbers == list(range(len(numbers))) and len(numbers) > last


def test_a_second_coordinator_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    with pytest.raises(ConfigError, match=r"journal .*j: database is locked; another coordinator uses it"):
        Journal(tmp_path / "j")
    journal.write([accepted(1)])
    journal.close()
    Journal(tmp_path / "j").close()


def test_a_torn_journal_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.write([accepted(number) for number in range(500)])
    journal.close()
    whole = (tmp_path / "j").read_bytes()
    for torn in (whole[: len(whole) // 2], whole[:4096] + os.urandom(len(whole) - 4096), b"no journal at all" * 100):
        (tmp_path / "j").write_bytes(torn)
        with pytest.raises(ConfigError, match="mend or move the file, or give another one"):
            Journal(tmp_path / "j").kept()


def test_a_message_that_is_none_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.write([accepted(1)])
    journal.close()
    file = sqlite3.connect(tmp_path / "j")
    file.execute("UPDATE accepted SET ask = x'c0'")
    file.commit()
    file.close()
    with pytest.raises(ConfigError, match="mend or move the file"):
        Journal(tmp_path / "j").kept()


def test_what_cannot_be_written_is_an_error_and_leaves_the_rest(tmp_path: Path) -> None:
    """A full disk, as far as SQLite can be told of one: no more pages."""
    journal = Journal(tmp_path / "j")
    journal.write([accepted(1)])
    (pages,) = journal._file.execute("PRAGMA page_count").fetchone()
    journal._file.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(ConfigError, match="full"):
        journal.write([accepted(number) for number in range(2, 5000)])
    journal.close()
    assert Journal(tmp_path / "j").kept() == [accepted(1)]


def test_a_file_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no such folder" / "j"):
        with pytest.raises(ConfigError, match=r"journal .*; mend or move"):
            Journal(path)


def test_another_version_is_refused(tmp_path: Path) -> None:
    Journal(tmp_path / "j").close()
    file = sqlite3.connect(tmp_path / "j")
    file.execute("UPDATE facts SET value = 7 WHERE name = 'version'")
    file.commit()
    file.close()
    with pytest.raises(ConfigError, match="is of version 7, this coordinator writes 1"):
        Journal(tmp_path / "j")


@pytest.mark.parametrize("sync", ["normal", "full"])
def test_sync_is_what_was_asked_for(tmp_path: Path, sync: str) -> None:
    (found,) = Journal(tmp_path / "j", sync)._file.execute("PRAGMA synchronous").fetchone()
    assert found == {"normal": 1, "full": 2}[sync]
    with pytest.raises(ConfigError, match="must be normal or full"):
        Journal(tmp_path / "k", "off")
