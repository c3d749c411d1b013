"""The engine's own work in one step: scheduling, bookkeeping, sampling, detokenising. The model is a fake that hands out
logits made before; the time inside it is taken off."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from brigade import collector
from brigade.batch import Batch
from brigade.bench.report import percentile
from brigade.engine.config import EngineConfig
from brigade.engine.controller import TextGenerationController
from brigade.engine.engine import DynamicEngine
from brigade.engine.runner import LocalRunner
from brigade.engine.sampling.params import SamplingParams
from brigade.text_table import columns
from brigade.tokenizer import Tokenizer

PROMPT, LIMIT = 64, 1024


class FakeModel:
    """Hands out rows of ready logits and keeps the time that this took."""

    def __init__(self, vocab_size: int, rows: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._pool = torch.randn(4 * rows, vocab_size, generator=generator) * 3.0
        self._rows, self._calls, self.spent = rows, 0, 0.0

    def __call__(self, batch: Batch, cache: None) -> torch.Tensor:
        begun = time.perf_counter()
        start = self._calls % (3 * self._rows)
        logits = self._pool[start : start + batch.num_logits]
        self._calls += 1
        self.spent += time.perf_counter() - begun
        return logits


@dataclass(frozen=True)
class Overhead:
    name: str
    vocab_size: int
    requests: int
    steps: int
    median: float  # seconds of one step
    p99: float


def measure(
    name: str, params: SamplingParams, vocab_size: int, tokenizer: Tokenizer | None, requests: int = 32, steps: int = 300
) -> Overhead:
    """Steps in which all requests decode; prompts are in before the clock starts."""
    model = FakeModel(vocab_size, requests)
    controller = TextGenerationController(LocalRunner(model), None, tokenizer)
    config = EngineConfig(max_batch_size=requests, max_step_tokens=max(requests * PROMPT, 64), prefill_chunk=PROMPT)
    engine = DynamicEngine(controller, config, requests * LIMIT // config.block_size, LIMIT, vocab_size)
    generator = random.Random(0)
    for _ in range(requests):
        engine.submit([generator.randrange(vocab_size) for _ in range(PROMPT)], params)
    for _ in range(20):
        engine.step()
    assert engine.num_running == requests
    times = []
    for _ in range(steps):
        model.spent, begun = 0.0, time.perf_counter()
        engine.step()
        times.append(time.perf_counter() - begun - model.spent)
    assert engine.num_running == requests
    return Overhead(name, vocab_size, requests, steps, percentile(times, 50), percentile(times, 99))


def measure_all(tokenizer: Tokenizer, requests: int = 32, steps: int = 300) -> list[Overhead]:
    collector.resume()  # it is part of the work
    long = {"max_tokens": LIMIT - PROMPT, "ignore_eos": True}
    greedy, drawn = {"temperature": 0.0, **long}, {"temperature": 0.8, "seed": 1, **long}
    small = tokenizer.vocab_size
    return [
        measure("greedy", SamplingParams(**greedy), small, tokenizer, requests, steps),
        measure("temperature", SamplingParams(**drawn), small, tokenizer, requests, steps),
        measure("temperature + top_p", SamplingParams(top_p=0.9, **drawn), small, tokenizer, requests, steps),
        measure("greedy, no tokenizer", SamplingParams(**greedy), 50304, None, requests, steps),
        measure("top_p, no tokenizer", SamplingParams(top_p=0.9, **drawn), 50304, None, requests, steps),
    ]


def overhead_lines(results: Sequence[Overhead]) -> list[str]:
    rows = [(one.name, str(one.vocab_size), f"{one.median * 1e3:.3f}", f"{one.p99 * 1e3:.3f}") for one in results]
    return columns([("sampling", "vocabulary", "median, ms", "p99, ms"), *rows], indent="  ")
