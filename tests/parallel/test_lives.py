"""Ranks begin, fail and end; whatever happens, the leader is told which rank it was, and nothing is left behind."""

from __future__ import annotations

import errno
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from brigade.backends.cpu.library import find_kernels
from brigade.errors import ConfigError, RankFailed
from brigade.mesh import Mesh
from brigade.parallel.launch import Ranks
from brigade.parallel.watch import Watch
from tests.parallel.interruptible import interruptible
from tests.parallel.leaders import expected, processes, start, step

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

ROOT = Path(__file__).parents[2]
MESH = Mesh(tp=2, pp=2)
NAMES = {
    1: "rank 1 (stage 1, tensor rank 1)",
    2: "rank 2 (stage 0, tensor rank 0)",
    3: "rank 3 (stage 0, tensor rank 1)",
}


def is_there(process: int) -> bool:
    """Zombies too."""
    return Path(f"/proc/{process}").exists()


def children_of(process: int) -> set[int]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == process:
            found.add(int(path.parent.name))
    return found


def shared_files() -> set[str]:
    """Those of shared memory, without what other libraries of tests beside this one keep there: semaphores, and OpenMP's note."""
    return {name for name in os.listdir("/dev/shm") if not name.startswith(("sem.", "__KMP_"))}


def wait_until_gone(found: list[int], seconds: float = 5) -> list[int]:
    end = time.monotonic() + seconds
    while any(map(is_there, found)) and time.monotonic() < end:
        time.sleep(0.02)
    return [process for process in found if is_there(process)]


@pytest.fixture(autouse=True)
def nothing_is_left(request) -> Iterator[None]:
    """After each test: no child, no file of shared memory, no descriptor; but gloo, whose meeting one rank never came to, keeps its
    connections and a sleeping thread until the process ends."""
    files, children, descriptors = shared_files(), children_of(os.getpid()), len(os.listdir("/proc/self/fd"))
    yield
    assert shared_files() == files and children_of(os.getpid()) == children
    kept = 30 if request.node.name == "test_a_rank_that_cannot_begin[group]" else 3  # torch keeps some of its own
    assert len(os.listdir("/proc/self/fd")) <= descriptors + kept


def run_until_failure(ranks: Ranks, seconds: float = 10, pause: float = 0.0) -> tuple[RankFailed, float]:
    """Steps until one fails: its error, and how long that took."""
    start = time.monotonic()
    with pytest.raises(RankFailed) as caught:
        for number in range(10**9):
            step(ranks, number % 50)
            assert time.monotonic() < start + seconds, "no step has failed"
            time.sleep(pause)
    return caught.value, time.monotonic() - start


@pytest.mark.parametrize(("tp", "pp"), [(1, 2), (4, 2)])
def test_ranks_begin_compute_and_end(tp, pp) -> None:
    mesh = Mesh(tp=tp, pp=pp)
    ranks = start(mesh)
    for number in range(20):
        assert step(ranks, number) == expected(mesh, number)
    found = processes(ranks)
    assert len(set(found.values())) == mesh.world - 1 and all(map(is_there, found.values())) and ranks.failure is None
    os.kill(found[1], signal.SIGINT)  # Ctrl-C is the leader's affair, who may go on
    assert step(ranks, 20) == expected(mesh, 20)
    began = time.monotonic()
    ranks.close()
    assert time.monotonic() - began < 2 and not any(map(is_there, found.values()))
    ranks.close()
    assert ranks.failure is None


@pytest.mark.parametrize(("rank", "when"), [(1, "in a step"), (2, "in a step"), (3, "in a step"), (2, "between steps")])
def test_a_killed_rank_is_named_and_all_end(rank, when) -> None:
    ranks = start(MESH, {"rank": rank, "step": 3, "what": "hang"} if when == "in a step" else None)
    for number in range(3):
        assert step(ranks, number) == expected(MESH, number)
    found = processes(ranks)
    if when == "in a step":
        ranks.links.send_order(b"x")
        time.sleep(0.1)
    os.kill(found[rank], signal.SIGKILL)
    error, seconds = run_until_failure(ranks)
    assert str(error) == f"{NAMES[rank]} died by signal 9 (SIGKILL); all ranks were ended"
    assert seconds < 5 and str(ranks.failure) == str(error) and not any(map(is_there, found.values()))
    ranks.close()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("raise", "rank 1 (stage 0, tensor rank 1) raised LookupError: no such layer; all ranks were ended"),
        ("refuse", "rank 1 (stage 0, tensor rank 1) raised model.safetensors is torn; all ranks were ended"),
        ("exit", "rank 1 (stage 0, tensor rank 1) ended before its time with exit code 7; all ranks were ended"),
    ],
)
def test_a_rank_that_fails_tells_why(what, words) -> None:
    ranks = start(Mesh(tp=2), {"rank": 1, "step": 5, "what": what})
    found = processes(ranks)
    error, seconds = run_until_failure(ranks)
    assert str(error) == words and seconds < 4 and wait_until_gone(list(found.values()), 0) == []
    if what == "raise":
        assert 'raise LookupError("no such\\nlayer")' in error.__notes__[0]
    ranks.close()


@pytest.mark.parametrize("what", ["hang", "spin", "stop"])
def test_a_rank_that_hangs_is_named(what) -> None:
    """The others wait for it, and are not."""
    ranks = start(MESH, {"rank": 3, "step": 1, "what": what}, rank_timeout=1.0)
    step(ranks, 0, watched=False)  # until all have begun
    found = processes(ranks)
    error, seconds = run_until_failure(ranks)
    assert NAMES[3] in str(error) and "no rank has finished a layer" in str(error) and "--rank-timeout" in str(error)
    assert 1 < seconds < 4 and not any(map(is_there, found.values()))
    ranks.close()


def test_ranks_may_rest_longer_than_the_timeout() -> None:
    ranks = start(Mesh(tp=2), rank_timeout=0.3)
    step(ranks, 0, watched=False)  # until all have begun
    time.sleep(1.0)
    assert step(ranks, 1) == expected(Mesh(tp=2), 1) and ranks.failure is None
    ranks.close()


@pytest.mark.parametrize("exchange", ["shared", "group"])
def test_a_rank_that_cannot_begin(exchange: str, monkeypatch, capfd) -> None:
    monkeypatch.setenv("BRIGADE_TEST", "early 3")
    with pytest.raises(RankFailed, match="rank 3 .* ended before its time with exit code 1"):
        step(start(MESH, exchange=exchange), 0)
    assert "this rank cannot begin" in capfd.readouterr().err


def test_a_forked_child_has_no_part_in_them() -> None:
    """It has the same memory, but a count of exchanges of its own: it would read what was meant for another step."""
    ranks = start(Mesh(tp=2))
    assert step(ranks, 0) == expected(Mesh(tp=2), 0)
    child = os.fork()
    if child == 0:
        refused = False
        try:
            ranks.check()
        except RankFailed:
            refused = not ranks.is_open
        os._exit(0 if refused else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert ranks.is_open and step(ranks, 1) == expected(Mesh(tp=2), 1)
    ranks.close()


def test_ranks_that_nobody_holds_are_closed() -> None:
    ranks = start(Mesh(tp=2))
    (found,) = processes(ranks).values() if step(ranks, 0) else ()
    del ranks
    gc.collect()
    assert not is_there(found)


def test_where_no_process_can_be_watched_nothing_is_started(monkeypatch) -> None:
    """An older kernel, or a container that forbids it: a rank that died would be waited for without end."""

    def refuse(process: int) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    with pytest.raises(ConfigError, match="several ranks need Linux 5.3 or newer.*Function not implemented"):
        start(MESH)


def test_a_watch_that_fails_ends_everybody(monkeypatch) -> None:
    def fail(self) -> None:
        raise MemoryError("none is left")

    monkeypatch.setattr(Watch, "_hang", fail)
    ranks = start(MESH)
    failure, _ = run_until_failure(ranks)
    assert "could not watch the others" in str(failure)
    ranks.close()


def test_without_a_python_program_nothing_is_started(monkeypatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(ConfigError, match="use one rank here"):
        start(MESH)


def program(*arguments: str, **options) -> subprocess.Popen:
    command = interruptible("tests.parallel.leaders", *arguments)
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda number: number.name)
def test_ranks_end_with_their_leader(number) -> None:
    """Killed, or by Ctrl-C, which reaches its whole process group."""
    with program("2", "2", "auto", "1000000", start_new_session=True) as leader:
        _, leader_process, *found = json.loads(leader.stdout.readline())
        assert len(found) == 3 and all(map(is_there, found)) and leader_process == leader.pid
        os.killpg(leader.pid, number)
        try:
            assert leader.wait(timeout=10) == -number
        finally:
            leader.kill()
        assert wait_until_gone(found) == []
        errors = leader.stderr.read()
    assert ("KeyboardInterrupt" in errors) == (number == signal.SIGINT) and "RankFailed" not in errors


def test_ranks_end_with_a_leader_that_forgets_them() -> None:
    """A script without a guard of its main, from standard input, on another thread than the main one."""
    script = (
        "import threading\nfrom brigade.mesh import Mesh\nfrom tests.parallel.leaders import *\n"
        "def live():\n    global ranks\n    ranks = start(Mesh(tp=2))\n    step(ranks, 1)\n    print(*processes(ranks).values())\n"
        "thread = threading.Thread(target=live)\nthread.start()\nthread.join()\n"
    )
    done = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, cwd=ROOT, timeout=30)
    assert done.returncode == 0 and done.stderr == "" and wait_until_gone([int(done.stdout)]) == []
