"""This checkout beside an earlier one: `python benchmarks/before.py OLD [--quants none int8] [--rounds 5]`.

OLD is a checkout of an earlier commit with its kernels built (`python setup.py build_ext --inplace`). Two processes hold the same
model, one of each package, and take every batch in turns, old and new alternating in who goes first: so a machine whose speed
drifts serves both alike. Prints the median of the ratios round by round (below 1: faster than before), and whether the tokens are
the same.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WORKS = {f"batch {n}": (n, 128, 8) for n in (1, 2, 4, 8, 16)} | {"one stream": (1, 128, 128)}  # requests, ids in, tokens out


class Worker:
    """One package in a process of its own, spoken to as `benchmarks/peers/protocol.py` says."""

    def __init__(self, package: Path, settings: dict[str, Any], threads: int) -> None:
        path = os.pathsep.join([str(package), str(ROOT)])
        command = [sys.executable, "-P", "-m", "benchmarks.peers.workers.brigade"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
        )
        self.about = self.ask(do="load", folder="", settings=settings, threads=threads)["about"]

    def ask(self, **request: Any) -> dict[str, Any]:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            sys.exit(f"{request['do']}: {answer['error']}")
        return answer

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def compare(old: Worker, new: Worker, work: tuple[int, int, int], rounds: int, generator: random.Random) -> str:
    requests, length, tokens = work
    ratios, times, same = [], {"old": [], "new": []}, True
    for number in range(-1, rounds):  # the first one warms up
        prompts = [[generator.randrange(50000) for _ in range(length)] for _ in range(requests)]
        turns = [("old", old), ("new", new)][:: 1 if number % 2 else -1]
        answers = {name: worker.ask(do="generate", prompts=prompts, new_tokens=tokens) for name, worker in turns}
        same &= answers["old"]["ids"] == answers["new"]["ids"]
        if number >= 0:
            ratios.append(answers["new"]["seconds"] / answers["old"]["seconds"])
            for name, answer in answers.items():
                times[name].append(answer["seconds"] * 1e3)
    old_ms, new_ms = (statistics.median(times[name]) for name in ("old", "new"))
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    said = "same tokens" if same else "OTHER TOKENS"
    return f"{old_ms:>9.0f} {new_ms:>9.0f}   {statistics.median(ratios):.3f} ({spread})   {said}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="a checkout of an earlier commit, its kernels built")
    parser.add_argument("--model", default="gpt-345m", help="a recipe (default gpt-345m)")
    parser.add_argument("--quants", nargs="+", default=["none"], help="(default none: bfloat16)")
    parser.add_argument("--works", nargs="+", choices=list(WORKS), default=list(WORKS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    for quant in args.quants:
        settings = {"recipe": args.model, "seed": 0, "quant": quant}
        old, new = (Worker(package.resolve(), settings, args.threads) for package in (args.old, ROOT))
        print(f"{args.model}, quant {quant}\n  old: {old.about}\n  new: {new.about}")
        print(f"{'':<12} {'old, ms':>9} {'new, ms':>9}   new / old, median (all)")
        for name in args.works:
            line = compare(old, new, WORKS[name], args.rounds, random.Random(f"{quant}/{name}"))
            print(f"{name:<12} {line}", flush=True)
        old.close()
        new.close()


if __name__ == "__main__":
    main()
