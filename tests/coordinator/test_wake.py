"""A thread that waits for its socket is woken from everywhere, and no waking is lost."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Iterator

import pytest
import zmq

from brigade.coordinator.wake import Waker

LONG = 20.0  # seconds that no test waits, unless a waking is lost


@pytest.fixture
def waker() -> Iterator[Waker]:
    made = Waker()
    yield made
    made.close()


@pytest.fixture
def ends() -> Iterator[tuple[zmq.Socket, zmq.Socket]]:
    with zmq.Context() as context, context.socket(zmq.PAIR) as near, context.socket(zmq.PAIR) as far:
        near.bind("inproc://near")
        far.connect("inproc://near")
        yield near, far


def seconds(waker: Waker, socket: zmq.Socket, most: float) -> float:
    begun = time.monotonic()
    waker.wait(socket, most)
    return time.monotonic() - begun


def test_it_waits_for_a_waking_a_message_or_the_time(waker: Waker, ends) -> None:
    near, far = ends
    assert seconds(waker, near, 0.05) >= 0.04 and seconds(waker, near, -1.0) < LONG
    waker.wake()
    assert seconds(waker, near, LONG) < LONG, "woken before it waited"
    assert seconds(waker, near, 0.05) >= 0.04, "and once only"
    far.send(b"")
    assert seconds(waker, near, LONG) < LONG and near.recv() == b""
    threading.Timer(0.05, waker.wake).start()
    assert seconds(waker, near, LONG) < LONG, "woken while it waited"


def test_more_wakings_than_there_is_room_for_are_one(waker: Waker, ends) -> None:
    for _ in range(100_000):
        waker.wake()
    assert seconds(waker, ends[0], LONG) < LONG
    assert seconds(waker, ends[0], 0.05) >= 0.04


def test_what_was_put_down_before_a_waking_is_found_after_it(waker: Waker, ends) -> None:
    """By the one who waits, while four others put down as fast as they can."""
    put: deque[int] = deque()

    def others() -> None:
        for number in range(2000):
            put.append(number)
            waker.wake()

    threads = [threading.Thread(target=others) for _ in range(4)]
    for thread in threads:
        thread.start()
    found, begun = 0, time.monotonic()
    while found < 8000:
        waker.wait(ends[0], LONG)
        while put:
            put.popleft()
            found += 1
    assert time.monotonic() - begun < LONG
    for thread in threads:
        thread.join()


def test_a_signals_handler_may_wake_its_own_thread(waker: Waker, ends) -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: waker.wake())
    try:
        threading.Timer(0.05, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1)).start()
        assert seconds(waker, ends[0], LONG) < LONG
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_poller_of_ones_own_sees_it_until_it_is_drained(waker: Waker) -> None:
    poller = zmq.Poller()
    poller.register(waker, zmq.POLLIN)
    assert poller.poll(0) == []
    waker.wake()
    assert poller.poll(0) == poller.poll(0) == [(waker.fileno(), zmq.POLLIN)]
    waker.drain()
    assert poller.poll(0) == []


def test_waking_one_that_is_closed_does_nothing_and_no_handle_is_left() -> None:
    made = Waker()
    assert made.fileno() >= 0
    made.close()
    made.close()
    made.wake()
    assert made.fileno() == made._wake.fileno() == -1
