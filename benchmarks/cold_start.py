"""From command to first token on an exported artifact that is in no cache: `python benchmarks/cold_start.py [RUNS]`.

Exports the 345M recipe in int8 once (or takes `--artifact FOLDER`), then again and again drops its pages from the page cache and
runs `brigade generate --stream` as a user would. The clock stops at the first byte of text; every byte of the artifact has been
read from the disk and held against its checksum by then. Python and torch themselves are warm, as on a machine in use.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = [sys.executable, "-m", "brigade.cli.main"]
EXPORT = ["--random-weights", "0", "--quant", "int8", "--dtype", "bfloat16"]


def drop(folder: Path) -> None:
    for path in folder.iterdir():
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)  # pages that are not on the disk yet cannot be dropped
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def cached_share(folder: Path) -> float:
    """The share of the folder's pages in the page cache, by mincore; what was asked to go may have stayed."""
    library, held, total = ctypes.CDLL(None, use_errno=True), 0, 0
    for path in folder.iterdir():
        size = path.stat().st_size
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
            pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
            start = ctypes.c_char.from_buffer(mapped)
            if library.mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(size), pages):
                raise OSError(ctypes.get_errno(), "mincore")
            del start
            held, total = held + sum(page & 1 for page in pages), total + len(pages)
    return held / total


def one_run(artifact: Path, threads: int | None) -> tuple[float, float]:
    """Seconds on the clock to the first byte, and the processor seconds of the whole command: the clock alone says little
    where the machine has other work."""
    ask = ["generate", "--stream", "--model", str(artifact), "--token-ids", "1 2 3 4 5 6 7 8", "--max-tokens", "2"]
    begun = time.perf_counter()
    process = subprocess.Popen(
        [*COMMAND, *ask, *(["--threads", str(threads)] if threads else [])], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    first = process.stdout.read(1)
    seconds = time.perf_counter() - begun
    process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status or not first:
        raise SystemExit("the command failed; run it by hand to see why")
    return seconds, usage.ru_utime + usage.ru_stime


def measure(artifact: Path, runs: int, threads: int | None) -> None:
    size = sum(path.stat().st_size for path in artifact.iterdir())
    one_run(artifact, threads)  # Python and torch into the cache
    for what in ("cold", "warm"):
        times, work, shares = [], [], []
        for _ in range(runs):
            if what == "cold":
                drop(artifact)
            shares.append(cached_share(artifact))
            seconds, processor = one_run(artifact, threads)
            times.append(seconds)
            work.append(processor)
        print(
            f"{what}: command to first token, {size / 1e6:.0f} MB, {runs} runs: median {statistics.median(times):.2f} s, "
            f"{min(times):.2f} to {max(times):.2f} s; processor {statistics.median(work):.2f} s; at most "
            f"{100 * max(shares):.0f}% of the pages were cached before",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="?", type=int, default=5)
    parser.add_argument("--artifact", type=Path, help="an artifact that is there already")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.artifact is not None:
        return measure(args.artifact, args.runs, args.threads)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        subprocess.run([*COMMAND, "export", "gpt-345m", f"{folder}/345m-int8", *EXPORT], check=True)
        measure(Path(folder) / "345m-int8", args.runs, args.threads)


if __name__ == "__main__":
    main()
