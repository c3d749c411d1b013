"""Waking a thread that waits for its sockets, from any other thread: ZeroMQ's own sockets belong to one thread each."""

from __future__ import annotations

import socket
from contextlib import suppress

import zmq

MOST = 4096  # bytes, of which each was one waking


class Waker:
    """One thread waits, with `wait` or a poller of its own. Everybody else may only `wake` it: at any time, from any thread, from a
    signal's handler, or from the garbage collector, because that takes no lock and never blocks.

    The one who waits looks for what there is to do *after* it was woken: what is put down before a `wake` is found then, also
    if nobody waited at that moment.
    """

    def __init__(self) -> None:
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)

    def wake(self) -> None:
        with suppress(OSError):  # full: it is about to look anyway; closed: nobody looks any more
            self._wake.send(b"\0")

    def wait(self, other: zmq.Socket, seconds: float) -> None:
        """Until there is something to read at `other`, somebody has called `wake`, or the time is over."""
        poller = zmq.Poller()
        poller.register(other, zmq.POLLIN)
        poller.register(self, zmq.POLLIN)
        poller.poll(max(seconds, 0) * 1000)
        self.drain()

    def fileno(self) -> int:
        """For a poller of one's own: ready to be read when somebody has called `wake`, until `drain` is called."""
        return self._woken.fileno()

    def drain(self) -> None:
        with suppress(BlockingIOError):
            while len(self._woken.recv(MOST)) == MOST:
                pass

    def close(self) -> None:
        """By the one who waits, or waited."""
        self._wake.close()
        self._woken.close()
