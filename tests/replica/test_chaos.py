"""Real processes are killed, stopped and continued, and connections cut, while streams run; and the same load for minutes. The
benchmarks that do so are run as commands; what they look for is shown to be found."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from benchmarks.soak import grown
from docs.rooms import PACKAGE


def run(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *words], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=1500)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_minute_of_chaos_changes_no_token(seed: int) -> None:
    done = run("benchmarks/chaos.py", "--faults", "40", "--seed", str(seed))
    last = done.stdout.strip().splitlines()[-1]
    found = re.fullmatch(r"(\d+) faults \(.*\), (\d+) streams, 0 changed", last)
    assert done.returncode == 0 and found is not None and int(found[1]) >= 40 and int(found[2]) >= 200, done.stdout + done.stderr


@pytest.mark.slow
def test_ten_minutes_of_load_leave_nothing_behind() -> None:
    done = run("benchmarks/soak.py", "--minutes", "10")
    assert done.returncode == 0 and done.stdout.count("; flat") == 4, done.stdout + done.stderr


def test_what_grows_is_found() -> None:
    flat = [100_000_000] * 20
    assert grown(flat, [30] * 20) == []
    assert grown([100_000_000 + 3_000_000 * turn for turn in range(20)], [30] * 20) == ["memory grew from 116 to 152 MB"]
    assert grown(flat, list(range(20))) == ["file handles grew from 6 to 18"]
    assert grown([50_000_000, *flat[1:]], [10, *([30] * 19)]) == [], "caches fill at first"
