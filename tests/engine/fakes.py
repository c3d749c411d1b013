"""A small real network and engines around it; and a fake one whose logits are a function of the last ids alone."""

from __future__ import annotations

from functools import cache

import torch

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


@cache
def tiny_model() -> GPTModel:
    model = GPTModel(CONFIG, get_backend("reference")).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.normal_(0.0, 0.3, generator=generator) if parameter.ndim > 1 else parameter.fill_(1.0)
    return model


def make_engine(kind: type[Engine] = DynamicEngine, num_blocks: int = 64, eos_ids=(), tokenizer=None, **settings) -> Engine:
    config = EngineConfig(**{"block_size": 8, "max_batch_size": 8, "max_step_tokens": 64, "prefill_chunk": 32} | settings)
    cache = KVCache.allocate(CONFIG.num_layers, num_blocks, CONFIG.num_kv_heads, config.block_size, CONFIG.head_dim)
    controller = TextGenerationController(tiny_model(), None, tokenizer, eos_ids, cache)
    return kind(controller, config, num_blocks, CONFIG.max_positions, CONFIG.vocab_size)


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
