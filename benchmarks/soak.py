"""The same load for minutes: `python benchmarks/soak.py [--minutes 10]`. Memory and file handles must stay as they are.

A coordinator, two replicas of the embedded model and one client, with rounds of mixed streams one after the other. Every process is
looked at between rounds; after a first fifth of the time, in which caches fill, nothing may grow any more.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil

from benchmarks.chaos import STREAMS, requests
from benchmarks.processes import fleet

GROWTH, SLACK = 1.05, 16e6  # how much more memory the last fifth may have than the second one: a share, and bytes
HANDLES = 2


def look(process: psutil.Process) -> tuple[int, int]:
    """Its own memory, and its file handles."""
    return process.memory_info().rss, process.num_fds()


def grown(memory: Sequence[int], handles: Sequence[int]) -> list[str]:
    """What is wrong with a process, if something is."""
    fifth = max(len(memory) // 5, 1)
    early, late = (statistics.median(part) for part in (memory[fifth : 2 * fifth] or memory, memory[-fifth:]))
    wrong = []
    if late > early * GROWTH + SLACK:
        wrong.append(f"memory grew from {early / 1e6:.0f} to {late / 1e6:.0f} MB")
    first, last = (statistics.median(part) for part in (handles[fifth : 2 * fifth] or handles, handles[-fifth:]))
    if last > first + HANDLES:
        wrong.append(f"file handles grew from {first:.0f} to {last:.0f}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    args = parser.parse_args()

    chance, rounds, tokens = random.Random(0), 0, 0
    with fleet(2) as made:
        made.wait_for(2)
        numbers = {"coordinator": made.coordinator.process.pid, "client": psutil.Process().pid}
        numbers |= {one.name: one.number for one in made.nest.replicas}
        watched = {name: psutil.Process(number) for name, number in numbers.items()}
        seen: dict[str, list[tuple[int, int]]] = {name: [] for name in watched}
        until = time.monotonic() + 60 * args.minutes
        while time.monotonic() < until:
            prompts, params = requests(STREAMS, chance)
            tokens += sum(len(sample.token_ids) for output in made.client.generate(prompts, params) for sample in output.samples)
            rounds += 1
            for name, process in watched.items():
                seen[name].append(look(process))
        failed = False
        for name, found in seen.items():
            memory, handles = zip(*found, strict=True)
            wrong = grown(memory, handles)
            failed |= bool(wrong)
            print(f"{name}: {memory[-1] / 1e6:.0f} MB, {handles[-1]} file handles; {'; '.join(wrong) or 'flat'}")
        print(f"{rounds} rounds of {STREAMS} streams, {tokens} tokens in {args.minutes:g} minutes")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
