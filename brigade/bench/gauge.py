"""Quick readings of the machine, to stand beside every repetition: on a shared host memory and cores change from minute to minute,
and not together, so that a floor of the best of both would be one that no minute has."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

MEMORY = 256 << 20  # bytes
SIZE = 2048  # of a square product
TRIES = 3


@dataclass(frozen=True)
class Reading:
    """Bytes a second; operations a second, where the arithmetic can be read within this process."""

    bandwidth: float
    rate: float | None = None

    def better(self, other: Reading) -> Reading:
        """What the machine could do at most while both were taken."""
        rates = [rate for rate in (self.rate, other.rate) if rate is not None]
        return Reading(max(self.bandwidth, other.bandwidth), max(rates, default=None))


def make_gauge(arithmetic: str, threads: int) -> Callable[[], Reading]:
    """With the engine's number of threads; some 200 ms a reading. float32 is not read: this process may have asked its math library
    for strict order, which would flatter the engine."""
    import torch

    memory, product = _memory_readers(), _product(arithmetic)

    def read() -> Reading:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            bandwidth = MEMORY / min(_seconds(reader) for reader in memory * 2)
            if product is None:
                return Reading(bandwidth)
            with torch.inference_mode():
                return Reading(bandwidth, 2 * SIZE**3 / min(_seconds(product) for _ in range(TRIES)))
        finally:
            torch.set_num_threads(before)

    return read


def _memory_readers() -> list[Callable[[], object]]:
    import torch

    from brigade.backends.cpu.library import find_kernels, kernels
    from brigade.backends.huge_pages import zeros

    buffer = torch.from_numpy(zeros(MEMORY)).fill_(1)
    whole = buffer.view(torch.float32)
    readers: list[Callable[[], object]] = [whole.sum, whole.max]
    if find_kernels() is not None:
        readers.append(lambda: kernels().br_read_bandwidth(buffer.data_ptr(), MEMORY))
    return readers


def _product(arithmetic: str) -> Callable[[], object] | None:
    import torch

    if arithmetic not in ("bfloat16", "int8"):
        return None
    a = torch.randint(-8, 8, (SIZE, SIZE)).to(getattr(torch, arithmetic))
    return lambda: (torch._int_mm if arithmetic == "int8" else torch.matmul)(a, a.t())


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
