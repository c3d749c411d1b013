"""The promise at full size: `python benchmarks/bits.py [--model gpt-345m] [--formats bfloat16 int8 ...]`.

Every request runs alone on one thread; then in batches, in chunks, preempted, from the prefix cache, on two threads. All logits
must be the same to the last bit: those that each token was drawn from, or, where they are collected, of every prompt position.
Prints the number of compared rows, and ends with code 1 if one differs.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from brigade import LLM, SamplingParams
from brigade.backends.cpu.library import kernels
from brigade.bench.recording import RecordingSampler
from brigade.checkpoint import random_weights

FORMATS = {  # dtype, quant
    "bfloat16": ("bfloat16", "none"), "float32": ("float32", "none"), "int8": ("bfloat16", "int8"),
    "int8-weight": ("bfloat16", "int8-weight"), "int4": ("bfloat16", "int4"), "int4-int8": ("bfloat16", "int4-int8"),
}  # fmt: skip
LENGTHS = (30, 7, 31, 68, 12, 3, 66, 5, 30, 9, 31, 2, 30, 8, 29, 1)  # many end where a block does, and grow into the next
TOKENS = 4
COMMON = 64  # ids that the long prompts begin with


@dataclass(frozen=True)
class Scenario:
    name: str
    requests: Iterable[int]
    threads: int = 2
    again: bool = False  # submit everything a second time, to an engine that knows it
    collect: bool = False  # every prompt position, and no tokens
    kind: str = "dynamic"
    engine: dict = field(default_factory=dict)


SCENARIOS = (
    Scenario("alone, 2 threads", (3,)),
    *(Scenario(f"batch of {n}", range(n)) for n in (2, 4, 8, 16)),
    Scenario("batch of 16, 1 thread", range(16), threads=1),
    Scenario("batch of 16, all positions", range(16), collect=True),
    *(Scenario(f"chunks of {n}, all positions", range(5), collect=True, engine={"prefill_chunk": n}) for n in (7, 33)),
    Scenario("chunks of 1", range(3), engine={"prefill_chunk": 1}),
    Scenario("preempted", range(16), engine={"block_size": 32, "kv_blocks": 11, "prefix_cache": False}),
    Scenario("prefix hits", (3, 6), again=True),
    Scenario("static engine", range(5), kind="static"),
)


def prompt(number: int, vocab: int) -> list[int]:
    length = LENGTHS[number]
    ids = torch.randint(0, vocab, (COMMON + length,), generator=torch.Generator().manual_seed(number))
    common = torch.randint(0, vocab, (COMMON,), generator=torch.Generator().manual_seed(99))
    return (common.tolist() + ids.tolist())[:length] if length > COMMON else ids[:length].tolist()


def play(llm: LLM, recorder: RecordingSampler, scenario: Scenario) -> tuple[dict[tuple[str, int], torch.Tensor], int, int]:
    """Logits by request and position of the token they predict; how often anyone was preempted, and how much was cached."""
    kernels().br_threads(scenario.threads, -1)
    small = {"kv_blocks": 32} | ({"max_step_tokens": 128} if scenario.kind == "dynamic" else {})
    engine = llm.make_engine(scenario.kind, **small | scenario.engine)
    params, found, preempted, cached = SamplingParams(max_tokens=TOKENS, temperature=0.0), {}, 0, 0
    for _ in range(2 if scenario.again else 1):
        recorder.seen.clear()
        names = {str(n): prompt(n, llm.config.vocab_size) for n in scenario.requests}
        for name, ids in names.items():
            engine.submit(ids, params, name, collect_logits=scenario.collect)
        while engine.has_work:
            engine.step()
        for name in names:
            if scenario.collect:
                rows = engine.take_logits(name)
                found |= {(name, position + 1): row for position, row in enumerate(rows)}
                continue
            metrics = engine.take_output(name).metrics
            preempted, cached = preempted + metrics.preemptions, cached + metrics.cached_tokens
        if not scenario.collect:
            found |= recorder.seen
    return found, preempted, cached


def check(name: str, model: str, seed: int) -> int:
    """One number format; returns how many rows differ."""
    begun = time.perf_counter()
    dtype, quant = FORMATS[name]
    recorder = RecordingSampler()
    llm = LLM(
        model,
        backend="cpu",
        random_weights=seed,
        dtype=dtype,
        quant=quant,
        max_model_len=128,
        kv_blocks=8,
        sampler=recorder,
        max_step_tokens=128,
    )
    print(f"{name}: {llm.numerics_id}, loaded in {time.perf_counter() - begun:.0f} s", flush=True)
    expected = {}
    for number in range(len(LENGTHS)):
        for collect in (True, False):
            expected |= play(llm, recorder, Scenario("alone", (number,), threads=1, collect=collect))[0]
    total = wrong = 0
    for scenario in SCENARIOS:
        found, preempted, cached = play(llm, recorder, scenario)
        assert (preempted > 0) == (scenario.name == "preempted"), "the scenario must be what its name says"
        assert (cached > 0) == (scenario.name == "prefix hits"), "the scenario must be what its name says"
        differ = sum(not torch.equal(row, expected[key]) for key, row in found.items())
        note = f", {preempted} preemptions" * (preempted > 0) + f", {cached} ids from the cache" * (cached > 0)
        print(f"  {scenario.name:<30}  {len(found):>6} rows of {llm.config.vocab_size}, {differ:>6} differ{note}", flush=True)
        total, wrong = total + len(found), wrong + differ
    print(f"  {'all':<30}  {total:>6} rows, {wrong:>6} differ, {time.perf_counter() - begun:.0f} s", flush=True)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="gpt-345m", help="a recipe")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    args = parser.parse_args()
    random_weights.random_parameter = functools.cache(random_weights.random_parameter)  # five formats of the same numbers
    wrong = sum(check(name, args.model, args.seed) for name in args.formats)
    print(f"{wrong} rows differ" if wrong else "every row is the same, bit for bit")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
