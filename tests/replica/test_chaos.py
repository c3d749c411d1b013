"""Real processes are killed, stopped and continued, and connections cut, while streams run; and the same load for minutes. The
benchmarks that do so are run as commands; what they look for is shown to be found."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from benchmarks.processes import Nest
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


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this system has no handles of processes")
def test_a_nest_signals_its_own_processes_alone_and_leaves_none() -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    nest = Nest("tcp://127.0.0.1:9")
    try:
        for _ in range(3):
            nest.start()
        made = list(nest.replicas)
        killed, ended, _ = made
        nest.kill(killed)
        os.kill(ended.number, signal.SIGKILL)  # as if it had ended by itself
        nest.start()  # from here on the numbers of those two may be anybody's
        alive = [made[2], nest.replicas[-1]]
        made.append(nest.replicas[-1])
        nest.replicas[:] = [replace(one, number=bystander.pid) for one in nest.replicas]
        own = [os.dup(one.handle) for one in alive]
        nest.replicas[0].send(signal.SIGTERM)
        nest.close()
        assert bystander.poll() is None and nest.process.returncode == 0 and nest.replicas == []
        assert len(select.select(own, [], [], 0)[0]) == 2, "one of them is left"  # a handle can be read when its process has ended
        for handle in own:
            os.close(handle)
        for one in made:
            with pytest.raises(OSError):
                os.fstat(one.handle)
    finally:
        nest.close()
        bystander.kill()
        bystander.wait()


def test_what_grows_is_found() -> None:
    flat = [100_000_000] * 20
    assert grown(flat, [30] * 20) == []
    assert grown([100_000_000 + 3_000_000 * turn for turn in range(20)], [30] * 20) == ["memory grew from 116 to 152 MB"]
    assert grown(flat, list(range(20))) == ["file handles grew from 6 to 18"]
    assert grown([50_000_000, *flat[1:]], [10, *([30] * 19)]) == [], "caches fill at first"
