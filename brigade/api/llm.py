"""`LLM`: from a path or a recipe to text, in one object."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch

from brigade.api.choices import Choices, settle
from brigade.backends.cpu.threads import check_threads
from brigade.backends.kv_cache import KVCache
from brigade.checkpoint.generation_config import NAME, sampling_defaults
from brigade.checkpoint.load import load_model, open_model
from brigade.engine.config import EngineConfig
from brigade.engine.controller import TextGenerationController
from brigade.engine.engine import DynamicEngine, Engine, StaticEngine
from brigade.engine.memory_plan import MemoryPlan, model_length, plan_memory
from brigade.engine.outputs import Delta, RequestOutput
from brigade.engine.sampling import Sampler, SamplingParams
from brigade.errors import CheckpointError, ConfigError, RequestError
from brigade.model.gpt_model import empty_model
from brigade.tokenizer import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from brigade.backends.base import Backend

Prompt = str | Sequence[int]
ENGINES: dict[str, type[Engine]] = {"static": StaticEngine, "dynamic": DynamicEngine}
DYNAMIC_ONLY = ("max_step_tokens", "prefill_chunk", "prefix_cache")


class LLM:
    """Loads once, then generates. `model`: a folder, an artifact of `brigade export`, a recipe, or None for the embedded model;
    `engine_settings` are the fields of `EngineConfig`."""

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        dtype: str = "auto",
        engine: str = "dynamic",
        backend: str = "auto",
        device: str = "cpu",
        exact: bool = True,
        random_weights: int | None = None,
        quant: str | None = None,
        skip_layers: Iterable[str] = (),
        threads: int | None = None,
        cpus: str | None = None,
        progress: Callable[[int, int], None] | None = None,
        sampler: Sampler | None = None,
        **engine_settings: Any,
    ) -> None:
        engine_config = make_engine_config(engine, engine_settings)
        source = open_model(model)
        self.source, self.name, self.config = source, source.name, source.config
        choices = Choices(dtype, backend, device, exact, random_weights, quant, skip_layers)
        self.backend, self.dtype = settle(source, choices)
        self._sampler = sampler
        self.sampling_defaults = sampling_defaults(source.path)
        self.default_params = self.params()
        use_threads(self.backend, threads, cpus)
        self._limit = model_length(source.config, engine_config)
        held = getattr(self.backend, "weight_dtype", self.dtype)
        parameters = empty_model(source.config, self.backend, self._limit).num_parameters
        self._weight_bytes = parameters * held.itemsize if source.artifact is None else source.artifact.manifest.weight_bytes
        self.plan = self._plan(engine_config)
        self.tokenizer = None if source.tokenizer_path is None else Tokenizer.from_folder(source.tokenizer_path)
        self.model = load_model(source, self.backend, self.dtype, random_weights, self._limit, progress)
        self.engine = self._engine(engine, engine_config, self.plan)

    def params(self, **given: Any) -> SamplingParams:
        """Sampling parameters, and the checkpoint's own defaults where `given` is silent."""
        try:
            SamplingParams(**self.sampling_defaults)
        except RequestError as error:
            raise CheckpointError(f"{NAME} of {self.name}: {error}; mend or remove the file") from error
        return SamplingParams(**{**self.sampling_defaults, **given})

    @property
    def numerics_id(self) -> str:
        variant = self.config.variant(self._limit)  # what max_model_len decides of the numbers
        return f"{self.backend.numerics_id}/weights-{str(self.dtype).removeprefix('torch.')}" + (f"/{variant}" if variant else "")

    def _plan(self, config: EngineConfig) -> MemoryPlan:
        if self.backend.device.type == "cuda":
            available = torch.cuda.mem_get_info(self.backend.device)[0]
        else:
            available = psutil.virtual_memory().available
        return self._plan_for(config, available)

    def _plan_for(self, config: EngineConfig, available: int) -> MemoryPlan:
        width = self.backend.cache_dim(self.config.head_dim)
        return plan_memory(self.config, config, self._weight_bytes, self.dtype.itemsize, available, width)

    def _engine(self, kind: str, config: EngineConfig, plan: MemoryPlan) -> Engine:
        sizes = getattr(self.backend, "block_sizes", None)
        if sizes is not None and config.block_size not in sizes:
            known = ", ".join(map(str, sizes))
            raise ConfigError(f"block_size is {config.block_size}; the {self.backend.name} backend takes {known}")
        cache = KVCache.allocate(
            self.config.num_layers, plan.num_blocks, self.config.num_kv_heads, config.block_size,
            self.backend.cache_dim(self.config.head_dim), self.dtype, self.backend.device,
        )  # fmt: skip
        eos_ids = () if self.tokenizer is None else self.tokenizer.eos_ids
        controller = TextGenerationController(self.model, self._sampler, self.tokenizer, eos_ids, cache)
        made = ENGINES[kind](controller, config, plan.num_blocks, plan.max_model_len, self.config.vocab_size)
        made.default_params = self.default_params
        return made

    def make_engine(self, kind: str, **engine_settings: Any) -> Engine:
        """Another engine over the same weights, with a cache of its own."""
        config = make_engine_config(kind, {"max_model_len": self._limit, **engine_settings})
        if model_length(self.config, config) > self._limit:
            raise ConfigError(f"max_model_len is {config.max_model_len}, but this model was loaded for {self._limit} positions")
        plan = self._plan_beside(config)
        return self._engine(kind, config, plan)

    def _plan_beside(self, config: EngineConfig) -> MemoryPlan:
        """A plan in which the weights are there already."""
        available = psutil.virtual_memory().available + self._weight_bytes
        return self._plan_for(config, available)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[RequestOutput]:
        """Run all prompts to their end; outputs come in the order of the prompts. One bad prompt refuses them all,
        before any work."""
        names = self._submit_all(prompts, params)
        done = 0
        try:
            while self.engine.has_work:
                for delta in self.engine.step():
                    if progress is not None and delta.finish_reason and self.engine.is_finished(delta.request_id):
                        done += 1
                        progress(done, len(names))
        except BaseException:
            self._drop(names)
            raise
        return [self.engine.take_output(name) for name in names]

    def stream(
        self, prompts: Prompt | Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams] | None = None
    ) -> Iterator[Delta]:
        """Deltas as they come; the k-th prompt's request id is `str(k)`. Leaving the loop early aborts what is left."""
        names = self._submit_all(prompts, params)
        try:
            while self.engine.has_work:
                yield from self.engine.step()
        finally:
            self._drop(names)

    def _drop(self, names: list[str]) -> None:
        for name in names:
            self.engine.abort(name)
            self.engine.take_output(name)

    def _submit_all(
        self, prompts: Prompt | Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams] | None
    ) -> list[str]:
        prompts = as_prompts(prompts)
        each = list(params) if isinstance(params, (list, tuple)) else [params] * len(prompts)
        if len(each) != len(prompts):
            raise RequestError(f"{len(prompts)} prompts but {len(each)} sampling parameters; give one for all, or one each")
        names: list[str] = []
        try:
            for number, (prompt, one) in enumerate(zip(prompts, each, strict=True)):
                names.append(self.engine.submit(prompt, one, request_id=str(number)))
        except BaseException:
            self._drop(names)
            raise
        return names

    def logits(self, prompts: Sequence[Sequence[int]] | Sequence[str] | str) -> list[Tensor]:
        """What the model says at every position: one float32 tensor [length, vocabulary] a prompt."""
        names = [
            self.engine.submit(prompt, SamplingParams(max_tokens=1), f"logits-{number}", collect_logits=True)
            for number, prompt in enumerate(as_prompts(prompts))
        ]
        while self.engine.has_work:
            self.engine.step()
        return [self.engine.take_logits(name) for name in names]

    def chat_prompt(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The text a chat becomes, by the model's own template."""
        if self.tokenizer is None:
            raise RequestError("this model has no tokenizer, so it has no chat template either; give token ids as a prompt")
        return self.tokenizer.apply_chat_template(messages)


def use_threads(backend: Backend, threads: int | None, cpus: str | None) -> None:
    """Threads of the backend's own pool, where it has one, and of torch."""
    if threads is not None:
        check_threads(threads)
    if hasattr(backend, "use"):
        backend.use(threads, cpus)
        if threads is not None or cpus is not None:
            torch.set_num_threads(backend.threads)
        return
    if cpus is not None:
        raise ConfigError(f"cpus is {cpus!r}, but the {backend.name} backend pins no threads; use backend cpu, or give threads")
    if threads is not None:
        torch.set_num_threads(threads)


def as_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt or many; a bare list of ids is one prompt."""
    if isinstance(prompts, str):
        return [prompts]
    prompts = list(prompts)
    return [prompts] if prompts and isinstance(prompts[0], int) else prompts


def make_engine_config(kind: str, settings: Mapping[str, Any]) -> EngineConfig:
    if kind not in ENGINES:
        raise ConfigError(f"engine is {kind!r}; it must be one of {', '.join(ENGINES)}")
    if kind == "static":
        useless = [name for name in DYNAMIC_ONLY if name in settings]
        if useless:
            raise ConfigError(f"{useless[0]} has no effect on the static engine; drop it, or use the dynamic engine")
    try:
        return EngineConfig(**settings)
    except TypeError as error:
        unknown = sorted(set(settings) - set(EngineConfig.__dataclass_fields__))
        raise ConfigError(
            f"unknown setting {', '.join(unknown)}; engine settings are {', '.join(EngineConfig.__dataclass_fields__)}"
        ) from error
