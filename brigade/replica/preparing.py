"""Requests that take long to read, read beside a replica's loop: the streams that it serves already go on meanwhile.

What is put in may come out in another order. A request's place in a batch changes no token of it, so order is a matter of fairness
alone: one that is slow to read holds up those behind it on its thread, and nobody else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

THREADS = 2  # more would take processors from the kernels; a constraint is nearly always compiled in milliseconds


class Preparing:
    """`ready` is called on a thread of these, with what was put in and what `read` made of it, or the error that it raised. The
    threads begin with the first request, and are no reason for a process to stay."""

    def __init__(self, read: Callable[[Any], Any], ready: Callable[[Any, Any], None]) -> None:
        self._read, self._ready = read, ready
        self._waiting: SimpleQueue[Any] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def put(self, one: Any) -> None:
        if not self._threads:
            self._threads = [threading.Thread(target=self._run, name="brigade-preparing", daemon=True) for _ in range(THREADS)]
            for thread in self._threads:
                thread.start()
        self._waiting.put(one)

    def close(self) -> None:
        """What still waits is dropped."""
        while not self._waiting.empty():
            self._waiting.get()
        for _ in self._threads:
            self._waiting.put(_END)

    def _run(self) -> None:
        while (one := self._waiting.get()) is not _END:
            try:
                found = self._read(one)
            except Exception as error:  # its own, whatever it is
                found = error
            self._ready(one, found)


_END = object()
