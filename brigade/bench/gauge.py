"""Quick readings of the machine, to stand beside every repetition: on a shared host memory and cores change from minute to minute,
and not together, so that a floor of the best of both would be one that no minute has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from brigade.bench.ceilings import KINDS, native_rate
from brigade.bench.reads import fastest_read, make_readers

MEMORY = 256 << 20  # bytes
READ_SECONDS, PEAK_SECONDS = 0.12, 0.05


@dataclass(frozen=True)
class Reading:
    """Bytes a second; operations a second, where the kernels have a loop of that arithmetic."""

    bandwidth: float
    rate: float | None = None

    def better(self, other: Reading) -> Reading:
        """What the machine could do at most while both were taken."""
        rates = [rate for rate in (self.rate, other.rate) if rate is not None]
        return Reading(max(self.bandwidth, other.bandwidth), max(rates, default=None))

    def times(self, factor: float) -> Reading:
        """Where something is known to be so many times as fast as the loop."""
        return Reading(self.bandwidth, None if self.rate is None else self.rate * factor)


def make_gauge(arithmetic: str, threads: int, by_kernels: bool = True) -> Callable[[], Reading]:
    """With the engine's number of threads; some 200 ms a reading. `by_kernels`: whether it is the kernels that compute, and not a
    library that may be faster than their path."""
    import torch

    from brigade.backends.cpu.library import find_kernels
    from brigade.backends.huge_pages import zeros

    buffer = torch.from_numpy(zeros(MEMORY)).view(torch.float32).fill_(1)
    readers = make_readers(buffer, threads)
    native = by_kernels and arithmetic in KINDS and find_kernels() is not None

    def read() -> Reading:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            seconds, _ = fastest_read(readers, READ_SECONDS)
        finally:
            torch.set_num_threads(before)
        return Reading(buffer.nbytes / seconds, native_rate(arithmetic, threads, PEAK_SECONDS) if native else None)

    return read
