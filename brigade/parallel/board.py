"""The board: what every rank of a host is doing, written by the rank itself, where all of them can read it.

It also has the stop word, which everyone reads who waits in shared memory. Ranks of other hosts send the same facts to the leader
through the store (`watch.py`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from brigade.parallel.memory import HostMemory

ROW, HEAD, TEXT = 4096, 64, 2048  # bytes of a rank's row, of the numbers in it, and of its last error


class State(IntEnum):
    """What a rank is doing. The kernels write WAITING (`BR_WAITING`) and what was there before."""

    STARTING = 0
    READY = 1
    COMPUTING = 2
    WAITING = 3
    ENDED = 4


class Stop(IntEnum):
    """Why nobody may wait any longer."""

    NONE = 0
    FAILED = 1
    CLOSING = 2


@dataclass(frozen=True)
class Facts:
    """What is known of a rank. `error` is empty, or its last error; `lost`: this rank failed because another was gone."""

    process: int
    state: State
    layers: int
    error: str = ""
    lost: bool = False
    when: float = 0.0


class Board:
    """Row 0 holds the stop word, row 1 + r is of rank r. A row is written by its rank alone."""

    def __init__(self, memory: HostMemory, world: int) -> None:
        self.memory = memory
        self._rows = np.frombuffer(memory.map, np.uint8, count=self.bytes(world)).reshape(world + 1, ROW)
        self._words = self._rows.view(np.int32)  # process, state, length of the error, lost
        self._longs = self._rows.view(np.int64)  # [2] layers
        self._doubles = self._rows.view(np.float64)  # [3] when the error came

    @staticmethod
    def bytes(world: int) -> int:
        return ROW * (world + 1)

    def stop_address(self) -> int:
        return self.memory.at(0)

    def state_address(self, rank: int) -> int:
        return self.memory.at(ROW * (rank + 1) + 4)

    @property
    def stopped(self) -> Stop:
        return Stop(int(self._words[0, 0]))

    def stop(self, why: Stop) -> None:
        """The first reason stays."""
        if self.stopped is Stop.NONE:
            self._words[0, 0] = why

    def enter(self, rank: int) -> None:
        self._words[rank + 1, 0] = os.getpid()

    def set_state(self, rank: int, state: State) -> None:
        self._words[rank + 1, 1] = state

    @contextmanager
    def waiting(self, rank: int) -> Iterator[None]:
        """While this rank waits for another in a way that the kernels do not see."""
        before = int(self._words[rank + 1, 1])
        self._words[rank + 1, 1] = State.WAITING
        try:
            yield
        finally:
            self._words[rank + 1, 1] = before

    def tick(self, rank: int) -> None:
        """One more layer is finished."""
        self._longs[rank + 1, 2] += 1

    def fail(self, rank: int, error: str, lost: bool) -> None:
        """The first error of a rank stays. Its length is written last: then the text is whole."""
        row = rank + 1
        if self._words[row, 2]:
            return
        text = error.encode()[:TEXT].decode(errors="ignore").encode() or b"?"
        self._rows[row, HEAD : HEAD + len(text)] = np.frombuffer(text, np.uint8)
        self._words[row, 3], self._doubles[row, 3] = lost, time.monotonic()
        self._words[row, 2] = len(text)

    def facts(self, rank: int) -> Facts:
        row = rank + 1
        process, state, length, lost = (int(word) for word in self._words[row, :4])
        error = bytes(self._rows[row, HEAD : HEAD + length]).decode(errors="replace")
        return Facts(process, State(state), int(self._longs[row, 2]), error, bool(lost), float(self._doubles[row, 3]))
