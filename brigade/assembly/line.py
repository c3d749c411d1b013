"""The assembly line: choices -> source -> plan -> model -> engine. Each is a value, made once and handed down.

    blueprint = draw(choices)                    # opens and settles everything; reads no weight
    plan = blueprint.plan()                      # where the memory goes; takes none of it
    parts = load(blueprint, progress)            # the network with its weights, and its tokenizer
    engine = parts.engine(plan)                  # takes the cache's memory

`assemble` walks it from end to end. What is wrong with the choices is refused by `draw` or `plan`, before the long work. A
blueprint is loaded once: its network is the one that gets the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from brigade.assembly.choices import Choices, settle, settle_engine
from brigade.backends.base import Backend
from brigade.backends.kv_cache import KVCache
from brigade.backends.number_formats import NumberFormats
from brigade.checkpoint.generation_config import NAME, sampling_defaults
from brigade.checkpoint.load import ModelSource, check_random_weights, fill, open_model
from brigade.engine.config import EngineConfig
from brigade.engine.controller import TextGenerationController
from brigade.engine.engine import DynamicEngine, Engine, StaticEngine
from brigade.engine.memory_plan import MemoryPlan, model_length, plan_memory
from brigade.engine.runner import LocalRunner
from brigade.engine.sampling import Sampler, SamplingParams
from brigade.errors import CheckpointError, ConfigError, RequestError
from brigade.model.gpt_model import GPTModel, empty_model
from brigade.tokenizer import Tokenizer

ENGINES: dict[str, type[Engine]] = {"static": StaticEngine, "dynamic": DynamicEngine}


@dataclass(frozen=True)
class Blueprint:
    """All that is decided before a weight is read."""

    source: ModelSource
    backend: Backend
    dtype: torch.dtype  # of weights that are not quantised, and of the cache
    random_weights: int | None
    numerics: str | None  # what was asked for: checked
    engine_kind: str
    engine_config: EngineConfig
    sampling_defaults: Mapping[str, Any]  # the checkpoint's own, checked

    @property
    def limit(self) -> int:
        """Positions of the longest request, prompt and output together."""
        return model_length(self.source.config, self.engine_config)

    @cached_property
    def network(self) -> GPTModel:
        """The network, made once: without storage until `load` fills it."""
        return empty_model(self.source.config, self.backend, self.limit)

    @cached_property
    def weight_bytes(self) -> int:
        """Of all weights as the backend holds them."""
        if self.source.artifact is not None:
            return self.source.artifact.manifest.weight_bytes
        return self.backend.packed_bytes(self.network, self.dtype)

    def params(self, **given: Any) -> SamplingParams:
        """Sampling parameters, and the checkpoint's own defaults where `given` is silent."""
        return SamplingParams(**{**self.sampling_defaults, **given})

    @property
    def numerics_id(self) -> str:
        return self._numerics_ids[-1]

    @property
    def _numerics_ids(self) -> tuple[str, ...]:
        """The backend's own, that with the type of the weights, and that with what max_model_len decides of the numbers."""
        own, weights = self.backend.numerics_id, str(self.dtype).removeprefix("torch.")
        variant = self.source.config.variant(self.limit)
        return own, f"{own}/weights-{weights}", f"{own}/weights-{weights}" + (f"/{variant}" if variant else "")

    def check_numerics(self) -> None:
        """Where a whole id was asked for, and not only a kind of bits, this model's must be that."""
        if self.numerics is not None and "/" in self.numerics and self.numerics not in self._numerics_ids:
            raise ConfigError(
                f"numerics is {self.numerics!r}, but this model computes here as {self.numerics_id}; change its quant, dtype or "
                "max_model_len, or drop numerics"
            )

    @property
    def number_formats(self) -> NumberFormats:
        """Weights, arithmetic and cache, in words."""
        return self.backend.number_formats(self.dtype)

    def plan(self, config: EngineConfig | None = None, held: int = 0) -> MemoryPlan:
        """`config`: of another engine over the same weights, of which `held` bytes are in memory already."""
        available = self.backend.free_memory() + held
        width = self.backend.cache_dim(self.source.config.head_dim)
        config = self.engine_config if config is None else config
        return plan_memory(self.source.config, config, self.weight_bytes, self.dtype.itemsize, available, width)


@dataclass(frozen=True)
class Parts:
    """A model with its weights in place, and what an engine needs beside it."""

    blueprint: Blueprint
    model: GPTModel
    tokenizer: Tokenizer | None

    def engine(
        self, plan: MemoryPlan, sampler: Sampler | None = None, kind: str | None = None, config: EngineConfig | None = None
    ) -> Engine:
        """An engine with a cache of its own; `kind` and `config` where they are not the blueprint's."""
        drawn = self.blueprint
        network, config = drawn.source.config, drawn.engine_config if config is None else config
        cache = KVCache.allocate(
            network.num_layers, plan.num_blocks, network.num_kv_heads, config.block_size,
            drawn.backend.cache_dim(network.head_dim), drawn.dtype, drawn.backend.device,
        )  # fmt: skip
        eos_ids = () if self.tokenizer is None else self.tokenizer.eos_ids
        controller = TextGenerationController(LocalRunner(self.model, cache), sampler, self.tokenizer, eos_ids)
        made = ENGINES[kind or drawn.engine_kind](controller, config, plan.num_blocks, plan.max_model_len, network.vocab_size)
        made.default_params = drawn.params()
        return made


@dataclass(frozen=True)
class Assembled:
    parts: Parts
    plan: MemoryPlan
    engine: Engine


def draw(choices: Choices) -> Blueprint:
    config = settle_engine(choices.engine, choices.engine_settings)
    source = open_model(choices.model)
    backend, dtype = settle(source, choices)
    backend.check_block_size(config.block_size)
    backend.use(choices.threads, choices.cpus)
    model_length(source.config, config)  # a length that the model does not have is refused here
    backend.probe(source.config)  # which may choose another way to compute, and so other bits
    made = Blueprint(
        source, backend, dtype, choices.random_weights, choices.numerics, choices.engine, config, _defaults(source)
    )  # fmt: skip
    made.check_numerics()
    return made


def _defaults(source: ModelSource) -> dict[str, Any]:
    found = sampling_defaults(source.path)
    try:
        SamplingParams(**found)
    except RequestError as error:
        raise CheckpointError(f"{NAME} of {source.name}: {error}; mend or remove the file") from error
    return found


def load(blueprint: Blueprint, progress: Callable[[int, int], None] | None = None) -> Parts:
    source = blueprint.source
    tokenizer = None if source.tokenizer_path is None else Tokenizer.from_folder(source.tokenizer_path)
    _ = blueprint.weight_bytes  # counted while the network is still empty
    model = fill(blueprint.network, source, blueprint.dtype, blueprint.random_weights, progress)
    return Parts(blueprint, model, tokenizer)


def assemble(choices: Choices, sampler: Sampler | None = None, progress: Callable[[int, int], None] | None = None) -> Assembled:
    blueprint = draw(choices)
    check_random_weights(blueprint.source, blueprint.random_weights)
    plan = blueprint.plan()
    parts = load(blueprint, progress)
    return Assembled(parts, plan, parts.engine(plan, sampler))
