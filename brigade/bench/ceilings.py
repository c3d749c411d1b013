"""What this machine can do at most: bytes read from memory a second, and operations a second in each arithmetic.

Measured with stock torch and numpy, in a process of its own: this one has asked its math library for strict order, which
costs a part of the rate, and a ceiling that the engine's own settings lower would flatter the engine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from brigade.errors import ConfigError

BUFFER = 2 << 30  # bytes, far beyond any cache; on a small machine a quarter of what is free
LEAST_SECONDS, LEAST_RUNS = 0.25, 3
SIZES = {"cpu": (2048, 3072), "cuda": (8192,)}  # of square products; which one is the fastest depends on the arithmetic


@dataclass(frozen=True)
class Ceilings:
    """Bytes a second, and for each arithmetic the operations a second (a multiplication and an addition are two)."""

    bandwidth: float
    rates: Mapping[str, float]
    threads: int
    reader: str  # what read memory fastest
    buffer: int  # bytes

    def __post_init__(self) -> None:
        for name, value in {"bandwidth": self.bandwidth, **self.rates}.items():
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"the ceiling of {name} is {value}; it must be a finite number above 0: measure again")

    def rate(self, arithmetic: str) -> float:
        if arithmetic not in self.rates:
            measured = ", ".join(self.rates)
            raise ConfigError(f"no ceiling of {arithmetic} arithmetic was measured, only of {measured}; choose another dtype")
        return self.rates[arithmetic]

    def better(self, other: Ceilings) -> Ceilings:
        """A ceiling is the most that was ever seen."""
        best = self if self.bandwidth >= other.bandwidth else other
        names = [*self.rates, *(name for name in other.rates if name not in self.rates)]
        rates = {name: max(self.rates.get(name, 0.0), other.rates.get(name, 0.0)) for name in names}
        return Ceilings(best.bandwidth, rates, best.threads, best.reader, best.buffer)

    def __str__(self) -> str:
        rates = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in self.rates.items())
        return (
            f"memory read {self.bandwidth / 1e9:.1f} GB/s ({self.reader}, {self.buffer / 1e9:.2g} GB), matmul in GFLOP/s: {rates}; "
            f"{self.threads} threads"
        )


def measure_ceilings(threads: int, device: str = "cpu") -> Ceilings:
    """Start the process that measures, and read what it found."""
    environment = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
    root = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "brigade.bench.ceilings", "--threads", str(threads), "--device", device]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ConfigError(f"the ceilings could not be measured ({reason}); free memory, or choose another device")
    return Ceilings(**json.loads(done.stdout))


def _best(work: Callable[[], object], wait: Callable[[], None]) -> float:
    """The shortest run in seconds, after one to warm up."""
    work()
    wait()
    begun, best, runs = time.perf_counter(), math.inf, 0
    while runs < LEAST_RUNS or time.perf_counter() - begun < LEAST_SECONDS:
        start = time.perf_counter()
        work()
        wait()
        best, runs = min(best, time.perf_counter() - start), runs + 1
    return best


def _bandwidth(threads: int, device: str, wait: Callable[[], None]) -> tuple[float, str, int]:
    import numpy as np
    import psutil
    import torch

    free = torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available
    width = 4096
    rows = max(min(BUFFER, free // 4) // (4 * width), 1)
    # Ones, not zeros: fresh zeros may all be the same page, which the cache holds.
    buffer = torch.ones(rows, width, device=device)
    vector = torch.ones(width, device=device)
    readers: dict[str, Callable[[], object]] = {
        "torch sum": buffer.sum,
        "torch max": buffer.max,
        "torch mv": lambda: buffer @ vector,
    }
    if device == "cpu":
        parts = np.array_split(buffer.numpy().reshape(-1).view(np.int64), threads)
        pool = ThreadPoolExecutor(threads)
        readers["numpy sum"] = lambda: list(pool.map(np.sum, parts))
        readers["numpy max"] = lambda: list(pool.map(np.max, parts))
    times = {name: _best(reader, wait) for name, reader in readers.items()}
    name = min(times, key=times.__getitem__)
    return buffer.nbytes / times[name], name, buffer.nbytes


def _rates(device: str, wait: Callable[[], None]) -> dict[str, float]:
    import torch

    rates: dict[str, float] = {}
    for name, size in itertools.product(("float32", "bfloat16", "int8"), SIZES[device]):
        product = torch._int_mm if name == "int8" else torch.matmul
        a = torch.randint(-8, 8, (size, size), device=device).to(getattr(torch, name))
        for b in (a, a.t()):  # as it lies, and as a weight does
            try:
                seconds = _best(lambda a=a, b=b, product=product: product(a, b), wait)
            except RuntimeError:  # this torch has no such product for this device or layout
                continue
            rates[name] = max(rates.get(name, 0.0), 2 * size**3 / seconds)
    return rates


def main() -> None:
    import torch

    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", choices=list(SIZES), required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    wait = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    with torch.inference_mode():
        rates = _rates(args.device, wait)
        bandwidth, reader, size = _bandwidth(args.threads, args.device, wait)
    json.dump({"bandwidth": bandwidth, "rates": rates, "threads": args.threads, "reader": reader, "buffer": size}, sys.stdout)


if __name__ == "__main__":
    main()
