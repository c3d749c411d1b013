"""A replica of this machine whose process ends is seen at once, and one elsewhere is not looked for here."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import deque

import pytest
import zmq

from brigade.coordinator.messages import PROTOCOL, Register, encode
from brigade.coordinator.process_watch import ProcessWatch, this_machine
from tests.coordinator.wires import Wires
from tests.coordinator.world import IDENTITY

if not hasattr(os, "pidfd_open") or not this_machine():
    pytest.skip("this system has no handles of processes", allow_module_level=True)


@pytest.fixture
def process():
    made = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield made
    made.kill()
    made.wait()


def test_the_end_of_a_process_is_told_with_its_latest_address(process) -> None:
    poller = zmq.Poller()
    watch = ProcessWatch(poller)
    assert watch.watch(process.pid, this_machine(), b"first") and watch.watch(process.pid, this_machine(), b"second")
    assert poller.poll(0) == []
    process.kill()
    ((handle, _),) = poller.poll(5000)
    assert watch.ended(handle) == b"second" and watch.ended(handle) is None
    assert poller.poll(0) == []
    process.wait()
    assert not watch.watch(process.pid, this_machine(), b"third"), "it is gone already"
    watch.close()


@pytest.mark.parametrize(("number", "machine"), [(0, None), (-5, None), (1, "another machine"), (1, ""), (10**12, None)])
def test_what_cannot_be_watched_from_here_is_taken_for_alive(number: int, machine: str | None) -> None:
    watch = ProcessWatch(zmq.Poller())
    assert watch.watch(number, this_machine() if machine is None else machine, b"it")
    assert not watch._handles


def test_no_handle_is_left(process) -> None:
    watch = ProcessWatch(zmq.Poller())
    for turn in range(100):
        watch.watch(process.pid, this_machine(), b"%d" % turn)
    (handle,) = watch._handles.values()
    os.fstat(handle)
    watch.close()
    with pytest.raises(OSError):
        os.fstat(handle)


def test_a_killed_replica_is_lost_long_before_it_would_be_missed(process) -> None:
    wires = Wires(replica_timeout=60)
    try:
        card = Register(PROTOCOL, "one", "", IDENTITY, 4, machine=this_machine(), process=process.pid)
        wires.inboxes[b"replica"] = deque()
        wires.append((b"replica", encode(card)))
        wires.until(lambda: len(wires.loop.machine.status().replicas) == 1)
        begun = time.monotonic()
        process.kill()
        wires.until(lambda: not wires.loop.machine.status().replicas)
        assert time.monotonic() - begun < 20 and wires.loop.machine.counts["replicas lost"] == 1
    finally:
        wires.close()
