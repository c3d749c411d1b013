"""A small real network and engines around it; fake ones whose logits are a function of ids alone; and a runner that holds steps
back as a pipeline does."""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from brigade.backends.cpu.library import choose_path, find_kernels, kernels
from brigade.backends.kv_cache import KVCache
from brigade.backends.registry import get_backend
from brigade.batch import Batch, Wanted
from brigade.config import ModelConfig, RopeConfig
from brigade.engine.config import EngineConfig
from brigade.engine.controller import TextGenerationController
from brigade.engine.engine import DynamicEngine, Engine
from brigade.engine.runner import Answer, LocalRunner, Runner
from brigade.model.gpt_model import GPTModel

CONFIG = ModelConfig(
    "tiny", vocab_size=71, num_layers=2, hidden_size=32, num_heads=4, num_kv_heads=2, head_dim=8, ffn_size=48,
    max_positions=256, rope=RopeConfig(rotary_dim=8), sliding_window=70, windowed_layers=(1,),
)  # fmt: skip


@dataclass(frozen=True)
class Setup:
    """A small network, and what computes it."""

    backend: str = "reference"
    dtype: str = "float32"
    quant: str = "none"
    config: ModelConfig = CONFIG
    path: str = ""  # of instructions; empty: the best there is

    def __str__(self) -> str:
        return "-".join((self.backend, self.dtype, self.quant))

    @property
    def block_sizes(self) -> tuple[int, ...]:
        return get_backend(self.backend).block_sizes


REFERENCE = Setup()
# The native backend's number formats; those that read bfloat16 weights keep their keys and values so too.
FORMATS = (
    ("float32", "none"),
    ("bfloat16", "none"),
    ("bfloat16", "int8"),
    ("float32", "int8-weight"),
    ("bfloat16", "int4"),
    ("bfloat16", "int4-int8"),
)
CPU = tuple(Setup("cpu", *kind) for kind in FORMATS)
SETUPS = (REFERENCE, *CPU) if find_kernels() is not None else (REFERENCE,)


@lru_cache(maxsize=24)
def tiny_model(setup: Setup = REFERENCE) -> GPTModel:
    """Random weights of a size that lets every part of the network show in the logits."""
    backend = get_backend(setup.backend)
    if setup.quant != "none":
        backend.quantise(setup.quant)
    model = GPTModel(setup.config, backend).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0.0, 1.7 / parameter.shape[-1] ** 0.5, generator=generator)
        else:
            parameter.normal_(1.0, 0.1, generator=generator)
    model.to(getattr(torch, setup.dtype) if setup.backend == "cpu" else torch.float32)
    backend.prepare(model)
    return model


class PipelinedRunner:
    """A pipeline of `depth` stages, as the engine sees it: a step is computed only when it is received, and nothing that was sent
    may change until then."""

    def __init__(self, model, cache=None, depth: int = 2, finds_best: bool = False) -> None:
        self.model, self.cache, self.depth, self.finds_best = model, cache, depth, finds_best
        self._sent: deque[tuple[Batch, Batch]] = deque()
        self.sent = self.received = self.closed = 0

    def send(self, batch: Batch) -> None:
        assert not self.closed, "a step is sent behind the end"
        assert len(self._sent) < self.depth, "more steps are under way than there are stages"
        assert all(span.wanted is not Wanted.BEST for span in batch.spans) or self.finds_best
        self._sent.append((batch, deepcopy(batch)))
        self.sent += 1

    def receive(self) -> Answer:
        assert not self.closed, "a step is received behind the end"
        batch, as_it_was = self._sent.popleft()
        assert batch == as_it_was, "what is under way was changed"
        self.received += 1
        spans = tuple(replace(span, wanted=Wanted.LAST) if span.wanted is Wanted.BEST else span for span in batch.spans)
        with torch.inference_mode():
            logits = self.model(Batch(spans), self.cache)
        rows, best = [], []
        for span in batch.spans:
            first = len(rows) + len(best)
            if span.wanted is Wanted.BEST:
                row = logits[first].numpy()
                token = int(np.argmax(row))  # the first NaN, or the first of the greatest
                best.append((float(row[token]), token))
            else:
                rows += range(first, first + len(span.rows))
        return Answer(logits[rows] if best else logits, best)

    def close(self) -> None:
        self.closed += 1


def make_runner(model, cache=None, depth: int | None = None, finds_best: bool = False) -> Runner:
    """The process's own model, or a pipeline of so many stages."""
    return LocalRunner(model, cache) if depth is None else PipelinedRunner(model, cache, depth, finds_best)


def make_engine(
    kind: type[Engine] = DynamicEngine, num_blocks: int = 64, eos_ids=(), tokenizer=None, setup: Setup = REFERENCE, sampler=None,
    depth: int | None = None, **settings,
) -> Engine:  # fmt: skip
    smallest = setup.block_sizes[0]
    config = EngineConfig(**{"block_size": smallest, "max_batch_size": 8, "max_step_tokens": 64, "prefill_chunk": 32} | settings)
    model, c = tiny_model(setup), setup.config
    width, dtype = model.backend.cache_dim(c.head_dim), getattr(torch, setup.dtype)
    cache = KVCache.allocate(c.num_layers, num_blocks, c.num_kv_heads, config.block_size, width, dtype)
    controller = TextGenerationController(make_runner(model, cache, depth), sampler, tokenizer, eos_ids)
    return kind(controller, config, num_blocks, c.max_positions, c.vocab_size)


@contextmanager
def computing(setup: Setup, threads: int):
    """With this set of instructions, and this many threads of every library."""
    torch.set_num_threads(threads)
    if setup.backend != "cpu":
        yield
        return
    kernels().br_threads(threads, -1)  # past the machine's processors too: bits are no matter of speed
    choose_path(setup.path)
    try:
        yield
    finally:
        choose_path("")


class CountingModel:
    """The next id is always the last one plus one. It checks what a real model would need of its batches."""

    def __init__(self, vocab_size: int = 97) -> None:
        self.vocab_size = vocab_size
        self.batches: list[Batch] = []

    def __call__(self, batch: Batch, cache: None) -> torch.Tensor:
        self.batches.append(batch)
        rows = []
        for span in batch.spans:
            wanted = {Wanted.NONE: [], Wanted.LAST: span.token_ids[-1:], Wanted.ALL: span.token_ids}[span.wanted]
            rows += [(i + 1) % self.vocab_size for i in wanted]
        return torch.nn.functional.one_hot(torch.tensor(rows, dtype=torch.int64), self.vocab_size).float() * 10


class RememberingModel:
    """A model whose cache holds ids, and whose next id is a function of everything it reads back there: a wrong block, a
    block written by someone else, or a position that was never computed changes what it says."""

    def __init__(self, num_blocks: int, block_size: int, vocab_size: int = 97) -> None:
        self.block_size, self.vocab_size = block_size, vocab_size
        self.cache = [[-1] * block_size for _ in range(num_blocks)]
        self.batches: list[Batch] = []

    def __call__(self, batch: Batch, cache: None) -> torch.Tensor:
        said = torch.tensor([hash(read) % self.vocab_size for read in self.read(batch)], dtype=torch.int64)
        return torch.nn.functional.one_hot(said, self.vocab_size).float() * 10

    def read(self, batch: Batch) -> list[tuple[int, ...]]:
        """Of each wanted row the ids up to it, as the cache has them."""
        self.batches.append(batch)
        for span in batch.spans:
            for position, token in enumerate(span.token_ids, span.start):
                self.cache[span.blocks[position // self.block_size]][position % self.block_size] = token
        rows = []
        for span in batch.spans:
            read = [self.cache[span.blocks[i // self.block_size]][i % self.block_size] for i in range(span.end)]
            start = {Wanted.NONE: span.end, Wanted.LAST: span.end - 1, Wanted.ALL: span.start}[span.wanted]
            rows += [tuple(read[: i + 1]) for i in range(start, span.end)]
        return rows


class SpeakingModel(RememberingModel):
    """One that remembers, and says something about every id of its vocabulary; behind POISON it says what is no number."""

    POISON = 13

    def __init__(self, num_blocks: int, block_size: int, vocab_size: int = 97) -> None:
        super().__init__(num_blocks, block_size, vocab_size)
        self.table_RV = torch.randn(251, vocab_size, generator=torch.Generator().manual_seed(5)) * 3

    def __call__(self, batch: Batch, cache: None) -> torch.Tensor:
        reads = self.read(batch)
        logits = self.table_RV[[hash(read) % len(self.table_RV) for read in reads]]
        for row, read in enumerate(reads):
            if read[-1] == self.POISON:
                logits[row, 5] = torch.nan if len(read) % 2 else torch.inf
        return logits


class Letters:
    """A tokenizer of one character an id."""

    eos_ids = ()

    def encode(self, text: str) -> list[int]:
        return [ord(c) - 32 for c in text]

    def decode(self, ids) -> str:
        return "".join(chr(i + 32) for i in ids)

    def detokenizer(self, skip_special_tokens=True, after=(), keep=()):
        from brigade.tokenizer.detokenizer import ByteDetokenizer

        return ByteDetokenizer([chr(i + 32).encode() for i in range(97)])


SMALL = {"block_size": 8, "max_batch_size": 4, "max_step_tokens": 32, "prefill_chunk": 16}


def remembering_engine(kind: type[Engine] = DynamicEngine, num_blocks: int = 64, **settings) -> Engine:
    config = EngineConfig(**SMALL | settings)
    controller = TextGenerationController(LocalRunner(RememberingModel(num_blocks, config.block_size)))
    return kind(controller, config, num_blocks, 512, 97)


def speaking_engine(
    kind: type[Engine] = DynamicEngine, num_blocks: int = 64, depth: int | None = None, finds_best: bool = False, sampler=None,
    **settings,
) -> Engine:  # fmt: skip
    config = EngineConfig(**SMALL | settings)
    runner = make_runner(SpeakingModel(num_blocks, config.block_size), None, depth, finds_best)
    return kind(TextGenerationController(runner, sampler, Letters()), config, num_blocks, 512, 97)


def counting_engine(
    kind: type[Engine] = DynamicEngine, num_blocks: int = 64, tokenizer=None, eos_ids=(), depth: int | None = None, **settings
) -> Engine:
    controller = TextGenerationController(make_runner(CountingModel(), None, depth), None, tokenizer, eos_ids)
    return kind(controller, EngineConfig(**SMALL | settings), num_blocks, 512, 97)


def run_to_end(engine: Engine, most: int = 5000):
    deltas = []
    for _ in range(most):
        if not engine.has_work:
            return deltas
        deltas += engine.step()
    raise AssertionError(f"still working after {most} steps")
