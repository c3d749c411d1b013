"""How fast memory can be read: plain reads of several kinds, of which the fastest counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Reader = Callable[[], object]


def make_readers(buffer: torch.Tensor, threads: int) -> dict[str, Reader]:
    """Whole reads of a float32 buffer. Those of the kernels go by their own pool of threads, torch's by its own."""
    import numpy as np

    readers: dict[str, Reader] = {"torch sum": buffer.sum, "torch max": buffer.max}
    if buffer.device.type != "cpu":
        return readers
    from brigade.backends.cpu.library import find_kernels, kernels

    if find_kernels() is not None:
        readers = {"kernels": lambda: kernels().br_read_bandwidth(buffer.data_ptr(), buffer.nbytes), **readers}
    parts = np.array_split(buffer.numpy().reshape(-1).view(np.int64), threads)
    pool = ThreadPoolExecutor(threads)
    return readers | {"numpy max": lambda: list(pool.map(np.max, parts))}


def fastest_read(
    readers: Mapping[str, Reader],
    seconds: float,
    wait: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, str]:
    """The shortest read and what did it. The readers take turns until the time is over; the first read is done in any case."""
    ends, best, name = clock() + seconds, float("inf"), ""
    while True:
        for each, reader in readers.items():
            start = clock()
            reader()
            wait()
            took = clock() - start
            if took < best:
                best, name = took, each
            if clock() >= ends:
                return best, name
