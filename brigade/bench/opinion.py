"""What stock torch's products reach: a second opinion on the ceilings.

In a process of its own, since this one has asked its math library for strict order, which costs a part of the rate; and under a
limit of time, since on some processors torch computes bfloat16 and int8 products a hundred times slower than they could be. Each
arithmetic begins with a small product, and goes on to a large one where that is worth it and fits into the time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from brigade.errors import ConfigError

SIZES = {"cpu": (256, 2048), "cuda": (1024, 8192)}  # of square products: the first decides whether the second is worth its time
WORTH = 0.25  # of the rate that is known: a small product that is slower than this stays the only one
RUNS = 3
# What torch and its libraries read to use no more instructions than a path of the kernels does. On `portable` nothing holds them:
# its loops are plain C++, far below whatever torch does.
HELD_TO = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "avx512-vnni": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"},
    "avx512-bf16": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
}
ARITHMETICS = ("float32", "bfloat16", "int8")


def ask_torch(threads: int, device: str, known: Mapping[str, float], seconds: float, path: str = "") -> dict[str, Any]:
    """Operations a second of each arithmetic, as far as `seconds` reach; of a device that is no processor also `bandwidth`,
    `reader` and `buffer`. `known`: the rates that a product is held against; `path`: of the kernels, whose
    instructions alone count."""
    environment = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
    environment |= HELD_TO.get(path, {})
    root = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "brigade.bench.opinion", "--threads", str(threads), "--device", device]
    command += ["--known", json.dumps(dict(known)), "--until", str(time.time() + seconds)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=max(seconds, 0.01))
    except subprocess.TimeoutExpired as late:
        return _read(late.stdout or b"")
    if done.returncode:
        reason = (done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ConfigError(f"the ceilings could not be measured ({reason}); free memory, or choose another device")
    return _read(done.stdout)


def _read(output: bytes) -> dict[str, Any]:
    """Lines of one object each, later ones better; the last may be cut off."""
    found: dict[str, Any] = {}
    for line in output.splitlines(keepends=True):
        if line.endswith(b"\n"):
            found |= json.loads(line)
    return found


def rates(
    device: str, known: Mapping[str, float], wait: Callable[[], None], until: float, say: Callable[[dict[str, float]], None]
) -> None:
    """Says each rate that is better than the one said before."""
    import torch

    best: dict[str, float] = {}
    for place, size in enumerate(SIZES[device]):
        for name in ARITHMETICS:
            if place and not _worth(best.get(name, 0.0), known.get(name, 0.0), size, until - time.time()):
                continue
            product = torch._int_mm if name == "int8" else torch.matmul
            a = torch.randint(-8, 8, (size, size), device=device).to(getattr(torch, name))
            for b in (a, a.t()):  # as it lies, and as a weight does
                try:
                    seconds = _best(lambda a=a, b=b, product=product: product(a, b), wait)
                except RuntimeError:  # this torch has no such product for this device or layout
                    continue
                rate = 2 * size**3 / seconds
                if rate > best.get(name, 0.0):
                    best[name] = rate
                    say({name: rate})


def _worth(rate: float, known: float, size: int, seconds: float) -> bool:
    """Whether a product that ran at `rate` when it was small should be tried at `size`: all its runs must fit into the time."""
    return rate > WORTH * known and 2 * (RUNS + 1) * 2 * size**3 / rate < seconds


def _best(work: Callable[[], object], wait: Callable[[], None]) -> float:
    """The shortest of a few runs in seconds, after one to warm up."""
    times = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _say(found: Mapping[str, Any]) -> None:
    print(json.dumps(found), flush=True)


def main() -> None:
    import torch

    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", choices=list(SIZES), required=True)
    parser.add_argument("--known", type=json.loads, default={})
    parser.add_argument("--until", type=float, required=True, help="seconds since the epoch")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    wait = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    with torch.inference_mode():
        if args.device == "cuda":
            from brigade.bench.reads import fastest_read, make_readers

            buffer = torch.ones(max(min(1 << 30, torch.cuda.mem_get_info()[0] // 4) // 4, 1), device="cuda")
            seconds, reader = fastest_read(make_readers(buffer, 1), 0.2, wait)
            _say({"bandwidth": buffer.nbytes / seconds, "reader": reader, "buffer": buffer.nbytes})
        rates(args.device, args.known, wait, args.until, _say)


if __name__ == "__main__":
    main()
