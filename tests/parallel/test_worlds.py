"""Ranks that speak through the process group: of one host by choice, or of several hosts that a launcher joins."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from brigade.backends.cpu.library import find_kernels
from brigade.mesh import Mesh
from tests.parallel.leaders import expected, processes, start, step
from tests.parallel.test_lives import NAMES, is_there, run_until_failure, wait_until_gone

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

ROOT = Path(__file__).parents[2]
MESH = Mesh(tp=2, pp=2)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def world(hosts: str, *arguments: str, **changes: str) -> list[subprocess.Popen]:
    """What a launcher does: one process for each letter of `hosts`, all at once."""
    shared = {"WORLD_SIZE": str(len(hosts)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared |= {"LOCAL_WORLD_SIZE": str(len(hosts)), "PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.parallel.leaders", *arguments],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "BRIGADE_HOST": host} | changes,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, host in enumerate(hosts)
    ]


def end(ranks: list[subprocess.Popen], seconds: float = 30) -> list[tuple[int, str, str]]:
    """Of each rank its exit code, output and errors. Who has not ended by then shows where it is."""
    late = time.monotonic() + seconds
    while any(rank.poll() is None for rank in ranks) and time.monotonic() < late:
        time.sleep(0.05)
    stuck = [number for number, rank in enumerate(ranks) if rank.poll() is None]
    for number in stuck:
        ranks[number].send_signal(signal.SIGABRT)
    done = [(rank.wait(), rank.stdout.read(), rank.stderr.read()) for rank in ranks]
    for rank in ranks:
        rank.stdout.close(), rank.stderr.close()
    assert not stuck, "\n".join(f"rank {number} is still there: {done[number][2]}" for number in stuck)
    return done


@pytest.mark.slow  # between two hosts: in tests/examples/test_launch.py
def test_the_process_group_on_one_host() -> None:
    ranks = start(MESH, exchange="group")
    for number in range(10):
        assert step(ranks, number, watched=number > 0) == expected(MESH, number)
    found = processes(ranks)
    os.kill(found[2], signal.SIGKILL)
    error, seconds = run_until_failure(ranks)
    assert str(error) == f"{NAMES[2]} died by signal 9 (SIGKILL); all ranks were ended" and seconds < 5
    assert not any(map(is_there, found.values()))
    ranks.close()


@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_rank_that_dies_on_another_host(rank) -> None:
    """The leader hears of a worker's death, and a worker of the leader's, within 10 s."""
    ranks = world("ab", "2", "1", "auto", "1000000")
    ways, *_ = json.loads(ranks[0].stdout.readline())
    assert ways == ["GroupEnd", "GroupExchange"]  # and steps go on
    began = time.monotonic()
    ranks[rank].kill()
    done = end(ranks)
    assert time.monotonic() - began < 10.5 and wait_until_gone([each.pid for each in ranks], 0) == []
    if rank:
        assert "rank 1 (stage 0, tensor rank 1) has not been heard of" in done[0][1], done[0]
    assert done[1][0] != 0


@pytest.mark.slow
def test_an_error_on_another_host_is_told() -> None:
    plan = json.dumps({"rank": 1, "step": 3, "what": "raise"})
    leader, worker = end(world("ab", "2", "1", "auto", "1000000", BRIGADE_TEST_PLAN=plan))
    assert "rank 1 (stage 0, tensor rank 1) raised LookupError: no such layer; all ranks were ended" in leader[1], leader
    assert leader[0] == 0 and worker[0] == 1


@pytest.mark.slow  # of a command: in tests/examples/test_launch.py
def test_a_world_of_another_size_ends_with_one_line() -> None:
    leader, worker = end(world("aa", "2", "2", "auto", "1"))
    assert "torchrun started 2 ranks, but tp 2 x pp 2 needs 4" in leader[2] and leader[0] == 1
    assert worker[0] == 2 and worker[2].count("\n") == 1 and "needs 4" in worker[2]


@pytest.mark.slow  # the commands under torchrun are in tests/examples/test_launch.py
def test_two_agents_of_torchrun() -> None:
    options = {
        "nnodes": "2",
        "nproc-per-node": "2",
        "rdzv-backend": "c10d",
        "rdzv-id": "brigade",
        "rdzv-endpoint": f"127.0.0.1:{free_port()}",
        "local-addr": "127.0.0.1",
    }
    command = [sys.executable, "-m", "torch.distributed.run", *(f"--{name}={value}" for name, value in options.items())]
    command += ["-m", "tests.parallel.leaders"]
    agents = [
        subprocess.Popen(
            [*command, "2", "2", "auto", "20"],
            env=os.environ | {"BRIGADE_HOST": host, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for host in "ab"
    ]
    done = end(agents, 60)
    assert [code for code, *_ in done] == [0, 0], done
    ways, *_ = json.loads(next(line for _, output, _ in done for line in output.splitlines() if line.startswith("[")))
    assert ways == ["GroupEnd", "RingEnd", "SharedExchange"]


LEAVES = """
import sys, time
from types import SimpleNamespace
from brigade.parallel import watch
from brigade.parallel.launch import _own_store
watch.LOOK = watch.TELL = 0.0
store = _own_store()
board = SimpleNamespace(stopped=None, facts=lambda rank: watch.Facts(0, watch.State.STARTING, 0))
watch.Guard(SimpleNamespace(here=lambda rank: (), leader=0), 1, board, _own_store(store.underlying_store.port)).start()
time.sleep(0.2)
sys.exit(0)
"""


def test_a_worker_that_leaves_while_its_guard_is_at_the_store_ends_well() -> None:
    """The interpreter ends threads where they are, and inside the store that is an abort of the whole process."""
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", LEAVES], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
