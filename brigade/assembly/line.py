"""The assembly line of one rank: choices -> source -> plan -> model -> engine. Each is a value, made once and handed down.

    blueprint = draw(choices)                    # opens and settles everything; reads no weight
    plan = blueprint.plan()                      # where the memory goes; takes none of it
    parts = load(blueprint, progress)            # the network with its weights, and its tokenizer
    engine = parts.engine(plan)                  # takes the cache's memory

`assembly/assemble.py` walks it from end to end, alone or as the leader of many ranks; `assembly/rank.py` is the walk of the others.
What is wrong with the choices is refused by `draw` or `plan`, before the long work. A blueprint is loaded once: its network is the
one that gets the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch

from brigade.assembly.choices import Choices, import_all, own_device, settle, settle_engine, settle_mesh, share_processors
from brigade.backends.base import Backend, LargestStep
from brigade.backends.huge_pages import give_back
from brigade.backends.kv_cache import KVCache
from brigade.backends.number_formats import NumberFormats
from brigade.checkpoint.generation_config import NAME, sampling_defaults
from brigade.checkpoint.load import ModelSource, fill, open_model
from brigade.config import ModelConfig
from brigade.engine.config import EngineConfig
from brigade.engine.controller import TextGenerationController
from brigade.engine.engine import DynamicEngine, Engine, StaticEngine
from brigade.engine.memory_plan import MemoryPlan, Needs, model_length, plan_memory
from brigade.engine.runner import LocalRunner, Runner
from brigade.engine.sampling import Sampler, SamplingParams
from brigade.engine.submission import Limits
from brigade.errors import CheckpointError, ConfigError, RequestError
from brigade.mesh import Mesh, Part
from brigade.model.gpt_model import GPTModel, empty_model
from brigade.parallel.board import Board
from brigade.parallel.leader import Leader
from brigade.parallel.memory import Places
from brigade.parallel.setup import Setup
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
    mesh: Mesh
    rank: int  # whose part of the model this is
    neighbours: int  # ranks of this machine

    @property
    def limit(self) -> int:
        """Positions of the longest request, prompt and output together."""
        return model_length(self.source.config, self.engine_config)

    @cached_property
    def network(self) -> GPTModel:
        """The network or this rank's part of it, made once: without storage until `load` fills it."""
        return empty_model(self.source.config, self.backend, self.limit, self.held)

    @cached_property
    def whole_network(self) -> GPTModel:
        """The network of all ranks together, for counting."""
        return self.network if self.mesh.world == 1 else empty_model(self.source.config, self.backend, self.limit)

    @property
    def held(self) -> Part:
        return self.mesh.part(self.rank, self.source.config.num_layers)

    @cached_property
    def weight_bytes(self) -> int:
        """Of the weights that are here, as the backend holds them."""
        if self.source.artifact is not None and self.mesh.world == 1:
            return self.source.artifact.manifest.weight_bytes
        return sum(self.backend.packed_sizes(self.network, self.dtype).values())

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        return Tokenizer.of_model(self.source.tokenizer_path)

    def limits(self, plan: MemoryPlan) -> Limits:
        """What an engine of this plan can serve at most."""
        vocabulary, has_tokenizer = self.source.config.vocab_size, self.tokenizer is not None
        return Limits.of(self.engine_config, plan.max_model_len, vocabulary, plan.num_blocks, has_tokenizer)

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

    def plan(self, config: EngineConfig | None = None, is_loaded: bool = False) -> MemoryPlan:
        """`config`: of another engine over the same weights, which are in memory already if `is_loaded`. Ranks of one machine
        share what is free."""
        config = self.engine_config if config is None else config
        needs = self.needs(config)
        # Mapped pages count as free, since the system may take them back. What was copied out of an artifact is counted twice.
        mapped = self.source.artifact is not None
        held = (0 if mapped else needs.weights) + needs.tables if is_loaded else 0
        return plan_memory(self.local, config, needs, self.backend.free_memory() // self.neighbours + held)

    def needs(self, config: EngineConfig | None = None) -> Needs:
        """What this rank takes of the memory."""
        config = self.engine_config if config is None else config
        step, empty = LargestStep(config.max_step_tokens, config.max_batch_size, self.limit), self.empty_network
        activations = self.backend.step_bytes(empty, self.dtype, step)
        return Needs(self.weight_bytes, empty.rope_bytes, activations, self.shared_bytes, self.position_bytes)

    @property
    def empty_network(self) -> GPTModel:
        """A network that can be counted: the own one as long as it has no weights, afterwards another."""
        if any(parameter.is_meta for parameter in self.network.parameters()):
            return self.network
        return empty_model(self.source.config, self.backend, self.limit, self.held)

    @property
    def shared_bytes(self) -> int:
        """What this rank touches of the memory in which ranks talk, where all of them are on one machine."""
        if self.mesh.world == 1:
            return 0
        return _places(self.mesh, self.row_bytes).touched(self.rank)

    @cached_property
    def local(self) -> ModelConfig:
        """The network with the heads and widths that are here."""
        return self.held.config(self.source.config)

    @property
    def position_bytes(self) -> int:
        """What one position takes in the caches of the layers that are here."""
        width = self.backend.cache_dim(self.local.head_dim)
        return 2 * len(self.held.layers) * self.local.num_kv_heads * width * self.dtype.itemsize

    @property
    def row_bytes(self) -> int:
        """Of the rows of a full step, as they go from stage to stage."""
        return self.engine_config.max_step_tokens * self.source.config.hidden_size * 4

    def cache(self, num_blocks: int, block_size: int) -> KVCache:
        """The memory for keys and values of the layers that are here."""
        return KVCache.allocate(
            len(self.held.layers), num_blocks, self.local.num_kv_heads, block_size, self.backend.cache_dim(self.local.head_dim),
            self.dtype, self.backend.device, self.held.first_layer,
        )  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """A model with its weights in place, and what an engine needs beside it. `leader`: where other ranks hold parts of it."""

    blueprint: Blueprint
    model: GPTModel
    tokenizer: Tokenizer | None
    leader: Leader | None = None

    def engine(
        self, plan: MemoryPlan, sampler: Sampler | None = None, kind: str | None = None, config: EngineConfig | None = None
    ) -> Engine:
        """An engine with a cache of its own; `kind` and `config` where they are not the blueprint's."""
        drawn = self.blueprint
        config = drawn.engine_config if config is None else config
        cache = drawn.cache(plan.num_blocks, config.block_size)
        runner: Runner = LocalRunner(self.model, cache) if self.leader is None else self.leader.make_runner(cache)
        eos_ids = () if self.tokenizer is None else self.tokenizer.eos_ids
        controller = TextGenerationController(runner, sampler, self.tokenizer, eos_ids)
        vocabulary = drawn.source.config.vocab_size
        made = ENGINES[kind or drawn.engine_kind](controller, config, plan.num_blocks, plan.max_model_len, vocabulary)
        made.default_params = drawn.params()
        return made


@lru_cache(maxsize=4)
def _places(mesh: Mesh, row_bytes: int) -> Places:
    """Of a mesh whose ranks are all on one machine: the same for each of them."""
    return Setup(mesh, (0,) * mesh.world, max_rows_bytes=row_bytes).places(0, Board.bytes(mesh.world))


def draw(choices: Choices, rank: int = 0, neighbours: int | None = None, place: int = 0) -> Blueprint:
    """`neighbours`: how many ranks share this machine, all of them if nothing is said; `place`: of this one among them."""
    import_all(choices.import_modules)
    config = settle_engine(choices.engine, choices.engine_settings)
    source = open_model(choices.model)
    mesh = settle_mesh(source, choices)
    neighbours = mesh.world if neighbours is None else neighbours
    if mesh.world > 1:
        choices = replace(choices, device=own_device(choices.device, place))
    backend, dtype = settle(source, choices)
    backend.check_block_size(config.block_size)
    share_processors(backend, choices, neighbours, place)
    model_length(source.config, config)  # a length that the model does not have is refused here
    backend.probe(source.config, mesh.tp)  # which may choose another way to compute, and so other bits
    made = Blueprint(
        source, backend, dtype, choices.random_weights, choices.numerics, choices.engine, config, _defaults(source), mesh, rank,
        neighbours,
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
    """The exchange of the ranks, if there are several, is the backend's by now."""
    source = blueprint.source
    tokenizer = blueprint.tokenizer
    _ = blueprint.weight_bytes  # counted while the network is still empty
    model = fill(blueprint.network, source, blueprint.dtype, blueprint.random_weights, progress)
    give_back()
    return Parts(blueprint, model, tokenizer)
