"""Layouts beside one rank: `python benchmarks/layouts.py [--quants none int8] [--rounds 5]`.

A process for each layout holds the same model; they take every work in turns, alternating in who goes first, so that a machine
whose speed drifts serves all alike. One rank has as many threads as all ranks of a layout of `tp` or `pp` alone. Prints the median
of the ratios round by round to one rank (the bar of each layout beside it), the share of its time that a rank spent waiting for
other ranks and in exchanges, and whether the tokens are the same.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MOST, PROMPT, LENGTH = 32, 128, 256  # requests at once, ids of a prompt, positions of the longest request
LAYOUTS = {  # name: tp, pp, threads of a rank, and the works that have a bar, with it
    "one rank": (1, 1, 2, {}),
    "tp 2": (2, 1, 1, {"batch 1": 1.3, "batch 16": 1.3}),
    "pp 2": (1, 2, 1, {"32 requests": 1.3}),
    "tp 2 x pp 2": (2, 2, 1, {"batch 1": 2.0, "batch 16": 2.0, "32 requests": 2.0}),
}
WORKS = {"batch 1": (1, 8), "batch 16": (16, 8), "32 requests": (32, 32)}  # requests, tokens out


def serve(settings: dict[str, Any]) -> None:
    """The worker: one JSON object a line in, one out."""
    sys.path.insert(0, str(ROOT))
    from brigade.api.llm import LLM
    from brigade.engine.sampling.params import SamplingParams

    layout = {"tp": settings["tp"], "pp": settings["pp"]} if settings["tp"] * settings["pp"] > 1 else {}
    llm = LLM(
        settings["model"], random_weights=0, dtype="bfloat16", quant=settings["quant"], threads=settings["threads"],
        prefix_cache=False, max_batch_size=MOST, max_model_len=LENGTH, max_step_tokens=settings["step"], prefill_chunk=PROMPT,
        **layout,
    )  # fmt: skip
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    print(json.dumps({"about": f"{llm.number_formats}; {llm.numerics_id}"}), file=replies, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        params = SamplingParams(max_tokens=asked["tokens"], temperature=0.0, ignore_eos=True)
        llm.rank_times()
        begun = time.perf_counter()
        outputs = llm.generate(asked["prompts"], params)
        seconds = time.perf_counter() - begun
        times = [[one.waited / one.elapsed, one.exchanged / one.elapsed] for one in llm.rank_times()]
        print(json.dumps({"seconds": seconds, "ids": [one.token_ids for one in outputs], "times": times}), file=replies, flush=True)
    llm.close()


class Worker:
    def __init__(self, settings: dict[str, Any]) -> None:
        command = [sys.executable, __file__, "--serve", json.dumps(settings)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = self._answer()["about"]

    def ask(self, **request: Any) -> dict[str, Any]:
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        return json.loads(line) if line else sys.exit("a worker died; its error stands above")

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def compare(workers: dict[str, Worker], work: str, rounds: int) -> list[str]:
    requests, tokens = WORKS[work]
    generator = random.Random(work)
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    times: dict[str, list[list[float]]] = {}
    same = dict.fromkeys(workers, True)
    for number in range(-1, rounds):  # the first one warms up
        prompts = [[generator.randrange(50000) for _ in range(PROMPT)] for _ in range(requests)]
        names = list(workers)[:: 1 if number % 2 else -1]
        answers = {name: workers[name].ask(prompts=prompts, tokens=tokens) for name in names}
        for name, answer in answers.items():
            same[name] &= answer["ids"] == answers["one rank"]["ids"]
            if number >= 0:
                seconds[name].append(answer["seconds"])
                times[name] = answer["times"]
    lines = []
    for name in workers:
        ratios = [a / b for a, b in zip(seconds[name], seconds["one rank"], strict=True)]
        bar = LAYOUTS[name][3].get(work)
        line = f"{work:<12} {name:<12} {statistics.median(seconds[name]) * 1e3:>8.0f} ms {statistics.median(ratios):>7.3f}"
        line += f" ({min(ratios):.3f} to {max(ratios):.3f})" + (f", bar {bar}" if bar else "")
        if times[name]:
            line += "; waited " + " ".join(f"{waited:.0%}" for waited, _ in times[name])
            line += "; exchanges " + " ".join(f"{exchanged:.0%}" for _, exchanged in times[name])
        lines.append(line + ("; same tokens" if same[name] else "; OTHER TOKENS"))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gpt-345m", help="a recipe (default gpt-345m)")
    parser.add_argument("--quants", nargs="+", default=["none", "int8"], help="(default none: bfloat16, and int8)")
    parser.add_argument("--layouts", nargs="+", choices=list(LAYOUTS), default=list(LAYOUTS))
    parser.add_argument("--works", nargs="+", choices=list(WORKS), default=list(WORKS))
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--step", type=int, default=512, help="max_step_tokens (default 512)")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(json.loads(args.serve))
    for quant in args.quants:
        workers = {}
        for name in dict.fromkeys(("one rank", *args.layouts)):
            tp, pp, threads, _ = LAYOUTS[name]
            workers[name] = Worker(
                {"model": args.model, "quant": quant, "tp": tp, "pp": pp, "threads": threads, "step": args.step}
            )  # fmt: skip
        print(f"{args.model}, quant {quant}: {workers['one rank'].about}")
        for work in args.works:
            print("\n".join(compare(workers, work, args.rounds)), flush=True)
        for worker in workers.values():
            worker.close()


if __name__ == "__main__":
    main()
