"""What this machine can do at most: bytes read from memory a second, and operations a second in each arithmetic.

The arithmetic of the kernels' path is measured by loops of their own that multiply and add in registers alone (`csrc/peak.inc`), so
that a product can come close to it and not pass it. There is one exception: on processors without an instruction for four products
of bytes (AVX2, AVX-512 without VNNI), few rows of `int4-int8` need about half the multiplications that `int8` needs, and it is the
loop of `int8` that is measured. A loop that is slow would flatter every share, so the multiply-adds a clock stand beside each rate,
to be held against what the processor's documents say. Where stock torch's products are faster they count; slower ones are named and
left out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from brigade.bench.opinion import ask_torch
from brigade.bench.reads import fastest_read, make_readers
from brigade.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

LIMIT = 5.0  # seconds, of the whole measurement, whatever the machine and its path
FILL_UNTIL, READ_UNTIL, ASK_UNTIL = 1.2, 1.8, 4.6  # seconds from its beginning
DEVICE_LIMIT = 60.0  # of another device, which takes seconds to start
BUFFER = 1 << 30  # bytes, far beyond any cache; on a small machine a quarter of what is free, on a slow one what is filled in time
CHUNK = 128 << 20  # bytes, filled at once
PEAK_SECONDS = 0.15  # of each arithmetic
KINDS = {"float32": 0, "bfloat16": 1, "int8": 2}  # as `csrc/brigade.h` numbers them


@dataclass(frozen=True)
class Ceilings:
    """Bytes a second, and for each arithmetic the operations a second (a multiplication and an addition are two): what the path's
    own loop reached, or torch's products, whichever was more."""

    bandwidth: float
    rates: Mapping[str, float]
    threads: int
    reader: str  # what read memory fastest
    buffer: int  # bytes
    path: str = ""  # whose loops were measured; empty: torch's products alone
    clock: float | None = None  # cycles a second of one core
    torch: Mapping[str, float] = field(default_factory=dict)  # what its products reached in time
    loops: Mapping[str, float] = field(default_factory=dict)  # what those of the path reached

    def __post_init__(self) -> None:
        for name, value in {"bandwidth": self.bandwidth, **self.rates}.items():
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"the ceiling of {name} is {value}; it must be a finite number above 0: measure again")

    def rate(self, arithmetic: str) -> float:
        if arithmetic not in self.rates:
            measured = ", ".join(self.rates)
            raise ConfigError(f"no ceiling of {arithmetic} arithmetic was measured, only of {measured}; choose another dtype")
        return self.rates[arithmetic]

    def beyond_loop(self, arithmetic: str) -> float:
        """How many times as fast as the path's loop anything was: more than 1 where torch's products were faster."""
        return self.rate(arithmetic) / self.loops.get(arithmetic, self.rate(arithmetic))

    def a_clock(self, arithmetic: str) -> float | None:
        """Multiply-adds of one core in a cycle, in the path's loop."""
        loop = self.loops.get(arithmetic)
        return None if self.clock is None or loop is None else loop / 2 / self.threads / self.clock

    def better(self, other: Ceilings) -> Ceilings:
        """A ceiling is the most that was ever seen."""
        best = self if self.bandwidth >= other.bandwidth else other
        clock = max(filter(None, (self.clock, other.clock)), default=None)
        return Ceilings(
            best.bandwidth, _most(self.rates, other.rates), best.threads, best.reader, best.buffer, best.path, clock,
            _most(self.torch, other.torch), _most(self.loops, other.loops),
        )  # fmt: skip

    def __str__(self) -> str:
        memory = f"memory read {self.bandwidth / 1e9:.1f} GB/s ({self.reader}, {self.buffer / 1e9:.2g} GB); {self.threads} threads"
        return "\n  ".join([memory, self._arithmetic(), *self._opinion()])

    def _arithmetic(self) -> str:
        shown = []
        for name, rate in (self.loops or self.rates).items():
            a_clock = self.a_clock(name)
            beside = "" if a_clock is None else f" ({a_clock:.3g})"
            shown.append(f"{name} {_giga(rate)}{beside}")
        if self.clock is None:
            return f"torch's products, GFLOP/s: {', '.join(shown)}"
        return f"path {self.path}, GFLOP/s (and multiply-adds a clock of a core, at {self.clock / 1e9:.2f} GHz): {', '.join(shown)}"

    def _opinion(self) -> list[str]:
        if self.clock is None:
            return []
        faster = [f"{name} {_giga(rate)}" for name, rate in self.torch.items() if rate > self.loops.get(name, 0.0)]
        slower = [f"{name} {_giga(rate)}" for name, rate in self.torch.items() if rate <= self.loops.get(name, 0.0)]
        late = [name for name in self.rates if name not in self.torch]
        parts = [f"{', '.join(faster)} faster, and counted"] if faster else []
        parts += [f"{', '.join(slower)} slower, and left out"] if slower else []
        parts += [f"{', '.join(late)} not there in time"] if late else []
        return [f"torch's products: {'; '.join(parts)}"]


def _most(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    names = dict.fromkeys([*one, *other])
    return {name: max(one.get(name, 0.0), other.get(name, 0.0)) for name in names}


def _giga(rate: float) -> str:
    return f"{rate / 1e9:.3g}" if rate < 1e12 else f"{rate / 1e9:.0f}"


def measure_ceilings(threads: int, device: str = "cpu") -> Ceilings:
    """With `threads` threads; of another device all that torch reaches there."""
    if device != "cpu":
        found = ask_torch(threads, device, {}, DEVICE_LIMIT)
        where = {name: found.pop(name) for name in ("bandwidth", "reader", "buffer") if name in found}
        if "bandwidth" not in where:
            raise ConfigError(f"the ceilings could not be measured (no answer of {device} in {DEVICE_LIMIT:.0f} s); try again")
        return Ceilings(rates=found, threads=threads, **where)
    begun = time.perf_counter()
    path, own, clock = native_ceilings(threads)
    bandwidth, reader, size = _bandwidth(threads, begun)
    try:
        asked = ask_torch(threads, device, own, begun + ASK_UNTIL - time.perf_counter(), path)
    except ConfigError:
        if not own:
            raise
        asked = {}  # a second opinion only: shown as what was not there in time
    return Ceilings(bandwidth, _most(own, asked), threads, reader, size, path, clock, asked, own)


def native_ceilings(threads: int) -> tuple[str, dict[str, float], float | None]:
    """The path in force, what its loops reach, and the clock; nothing of all that where the kernels are not built."""
    from brigade.backends.cpu.library import find_kernels, kernels

    if find_kernels() is None:
        return "", {}, None
    rates = {name: native_rate(name, threads, PEAK_SECONDS) for name in KINDS}
    return kernels().br_path().decode(), rates, kernels().br_clock(threads, PEAK_SECONDS)


def native_rate(arithmetic: str, threads: int, seconds: float) -> float:
    """Operations a second of the path in force, in loops that touch no memory."""
    from brigade.backends.cpu.library import kernels

    return 2 * kernels().br_peak(KINDS[arithmetic], threads, seconds)


def _bandwidth(threads: int, begun: float) -> tuple[float, str, int]:
    import torch

    buffer = _filled(begun + FILL_UNTIL)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        seconds, reader = fastest_read(make_readers(buffer, threads), begun + READ_UNTIL - time.perf_counter())
    finally:
        torch.set_num_threads(before)
    return buffer.nbytes / seconds, reader, buffer.nbytes


def _filled(until: float) -> Tensor:
    """Ones, not zeros: fresh zeros may all be the same page, which the cache holds."""
    import psutil
    import torch

    from brigade.backends.huge_pages import zeros

    size = max(min(BUFFER, psutil.virtual_memory().available // 4) // 4096, 1) * 4096
    buffer, done = torch.from_numpy(zeros(size)).view(torch.float32), 0
    while done < buffer.numel() and (not done or time.perf_counter() < until):
        buffer[done : done + CHUNK // 4].fill_(1)
        done = min(done + CHUNK // 4, buffer.numel())
    return buffer[:done]
