"""What `brigade inspect` predicts of each rank's memory beside what the rank takes: `python benchmarks/capacity.py [--cases ...]`.

Every case is a recipe with random weights on a layout. Its cache is filled by steps of the largest size. Measured of a rank: its
anonymous memory and what it touched of the memory that ranks share (RssAnon and RssShmem of /proc), less `before`: the anonymous
memory that the same process had with Python and its libraries, before it opened the model (noted by this module, which each rank
imports then). `kept` is free memory that the allocator has not given back, found by asking it to (`malloc_trim`) after the
measurement; it is not taken off. Predicted: `brigade.assembly.capacity`.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NOTES = "BRIGADE_CAPACITY_NOTES"  # in the environment of a case: the folder in which each of its processes notes its memory
BATCH, CONTEXT = 8, 512  # requests and positions: a cache that eight steps of 512 tokens fill
ANSWER = 32  # tokens: the first request runs until the last has its prompt behind it, so that none takes another's blocks
CASES: dict[str, tuple[str, str, int, int]] = {  # recipe, quant, tp, pp
    "345m bfloat16, one rank": ("gpt-345m", "none", 1, 1),
    "345m bfloat16, tp 2": ("gpt-345m", "none", 2, 1),
    "345m int8, pp 2": ("gpt-345m", "int8", 1, 2),
    "345m int8, tp 2 x pp 2": ("gpt-345m", "int8", 2, 2),
    "1.3b bfloat16, tp 2": ("gpt-1.3b", "none", 2, 1),
    "1.3b int8, one rank": ("gpt-1.3b", "int8", 1, 1),
}


def own_memory(process: int | str = "self") -> dict[str, int]:
    """Bytes that a process has of its own and of shared memory."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return {name: int(lines[name].split()[0]) << 10 for name in ("RssAnon", "RssShmem")}


def note(kind: str) -> None:
    path = Path(os.environ[NOTES]) / f"{os.environ.get('RANK', '0')}.{kind}"
    path.with_suffix(".part").write_text(json.dumps({"process": os.getpid(), **own_memory()}))
    path.with_suffix(".part").rename(path)


def trim(*_: Any) -> None:
    ctypes.CDLL(None).malloc_trim(0)
    note("trimmed")


if __name__ != "__main__" and NOTES in os.environ:  # imported in a rank, before it opens the model
    note("before")
    signal.signal(signal.SIGUSR1, trim)


def measure(model: str, settings: dict[str, Any]) -> list[dict[str, int]]:
    """In a process of its own, which leads the ranks: predicted and measured bytes of each."""
    from brigade.api.llm import LLM
    from brigade.assembly.capacity import on_paper
    from brigade.assembly.choices import Choices
    from brigade.assembly.line import draw
    from brigade.engine.sampling.params import SamplingParams

    engine = {"max_batch_size": BATCH, "max_model_len": CONTEXT, "kv_blocks": BATCH * CONTEXT // 64, "prefix_cache": False}
    layout = {name: settings[name] for name in ("tp", "pp")}
    paper = on_paper(draw(Choices(model, quant=settings["quant"], engine_settings=engine, **layout)), 1 << 62)
    with LLM(model, random_weights=0, import_modules=["capacity"], **settings, **engine) as llm:
        prompts = [[(7 * i + j) % 1000 for j in range(CONTEXT - ANSWER)] for i in range(BATCH)]
        llm.generate(prompts, SamplingParams(max_tokens=ANSWER, temperature=0.0, ignore_eos=True))
        notes = Path(os.environ[NOTES])
        found = []
        for one in paper.ranks:
            before = json.loads((notes / f"{one.rank}.before").read_text())
            after = own_memory(before["process"])
            os.kill(before["process"], signal.SIGUSR1)
            found.append({"before": before["RssAnon"], "anonymous": after["RssAnon"], "shared": after["RssShmem"]})
        for one, rank in zip(paper.ranks, found, strict=True):
            trimmed = notes / f"{one.rank}.trimmed"
            llm.generate([[1, 2, 3]], SamplingParams(max_tokens=2))  # wakes whoever waits for an order
            late = time.monotonic() + 60
            while not trimmed.exists():
                if time.monotonic() > late:
                    raise SystemExit(f"rank {one.rank} did not answer")
                time.sleep(0.05)
            rank["kept"] = rank["anonymous"] - json.loads(trimmed.read_text())["RssAnon"]
            rank["measured"] = rank["anonymous"] - rank["before"] + rank["shared"]
            rank |= {"predicted": one.whole, "weights": one.needs.weights, "cache": one.cache}
    return found


def run_case(model: str, quant: str, tp: int, pp: int) -> list[dict[str, int]]:
    import subprocess

    with tempfile.TemporaryDirectory() as notes:
        path = os.pathsep.join(filter(None, (str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH"))))
        given = json.dumps([model, {"quant": quant, "tp": tp, "pp": pp}])
        command = [sys.executable, __file__, "--measure", given]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | {NOTES: notes, "PYTHONPATH": path})
    if done.returncode:
        raise SystemExit(f"{model}, quant {quant}, tp {tp}, pp {pp} failed; its error stands above")
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES), metavar="CASE", help="; ".join(CASES))
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*json.loads(args.measure))))
        return
    from brigade.text_table import columns

    table = [["case", "rank", "weights", "cache", "predicted", "measured", "ratio", "before", "kept"]]
    for name in args.cases:
        for rank, found in enumerate(run_case(*CASES[name])):
            sizes = [f"{found[key] / 2**20:.1f}" for key in ("weights", "cache", "predicted", "measured")]
            ratio, rest = found["measured"] / found["predicted"], [f"{found[key] / 2**20:.1f}" for key in ("before", "kept")]
            table.append([name, str(rank), *sizes, f"{ratio:.3f}", *rest])
            print(f"{name}, rank {rank}: measured {ratio:.3f} of what was predicted", file=sys.stderr, flush=True)
    print("\n".join(["MiB; `before`: Python and its libraries, not in `measured`", *columns(table)]))


if __name__ == "__main__":
    main()
