"""A small real network and engines around it; and a fake one whose logits are a function of the last ids alone."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import torch

from brigade.backends.cpu.library import choose_path, find_kernels, kernels
from brigade.backends.kv_cache import KVCache
from brigade.backends.registry import get_backend
from brigade.batch import Batch, Wanted
from brigade.config import ModelConfig, RopeConfig
from brigade.engine.config import EngineConfig
from brigade.engine.controller import TextGenerationController
from brigade.engine.engine import DynamicEngine, Engine
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


def make_engine(
    kind: type[Engine] = DynamicEngine, num_blocks: int = 64, eos_ids=(), tokenizer=None, setup: Setup = REFERENCE, sampler=None,
    **settings,
) -> Engine:  # fmt: skip
    smallest = setup.block_sizes[0]
    config = EngineConfig(**{"block_size": smallest, "max_batch_size": 8, "max_step_tokens": 64, "prefill_chunk": 32} | settings)
    model, c = tiny_model(setup), setup.config
    width, dtype = model.backend.cache_dim(c.head_dim), getattr(torch, setup.dtype)
    cache = KVCache.allocate(c.num_layers, num_blocks, c.num_kv_heads, config.block_size, width, dtype)
    controller = TextGenerationController(model, sampler, tokenizer, eos_ids, cache)
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
        self.batches.append(batch)
        for span in batch.spans:
            for position, token in enumerate(span.token_ids, span.start):
                self.cache[span.blocks[position // self.block_size]][position % self.block_size] = token
        rows = []
        for span in batch.spans:
            read = [self.cache[span.blocks[i // self.block_size]][i % self.block_size] for i in range(span.end)]
            start = {Wanted.NONE: span.end, Wanted.LAST: span.end - 1, Wanted.ALL: span.start}[span.wanted]
            rows += [hash(tuple(read[: i + 1])) % self.vocab_size for i in range(start, span.end)]
        return torch.nn.functional.one_hot(torch.tensor(rows, dtype=torch.int64), self.vocab_size).float() * 10


def remembering_engine(kind: type[Engine] = DynamicEngine, num_blocks: int = 64, **settings) -> Engine:
    config = EngineConfig(**{"block_size": 8, "max_batch_size": 4, "max_step_tokens": 32, "prefill_chunk": 16} | settings)
    controller = TextGenerationController(RememberingModel(num_blocks, config.block_size))
    return kind(controller, config, num_blocks, 512, 97)


def counting_engine(kind: type[Engine] = DynamicEngine, num_blocks: int = 64, tokenizer=None, eos_ids=(), **settings) -> Engine:
    config = EngineConfig(**{"block_size": 8, "max_batch_size": 4, "max_step_tokens": 32, "prefill_chunk": 16} | settings)
    controller = TextGenerationController(CountingModel(), None, tokenizer, eos_ids)
    return kind(controller, config, num_blocks, 512, 97)


def run_to_end(engine: Engine, most: int = 5000):
    deltas = []
    for _ in range(most):
        if not engine.has_work:
            return deltas
        deltas += engine.step()
    raise AssertionError(f"still working after {most} steps")
