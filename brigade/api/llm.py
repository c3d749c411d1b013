"""`LLM`: from a path or a recipe to text, in one object. The blocking face of the engine's thread.

Any number of threads may call one `LLM` at once: their requests join the same batch, and no call sees another's. How it is asked
(`generate`, `stream`) stands in `faces.py`, where a client of a coordinator has it too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brigade.api.faces import BlockingFace, Params, named_params
from brigade.api.stream import received
from brigade.assembly.assemble import Check, assemble
from brigade.assembly.choices import Choices, settle_engine
from brigade.assembly.fingerprint import loaded_fingerprint
from brigade.engine.engine import Engine, Submission
from brigade.engine.engine_thread import EngineThread, Logits
from brigade.engine.memory_plan import model_length
from brigade.engine.outputs import RequestOutput
from brigade.engine.prompt import ChatPrompt, Prompt, write_chat
from brigade.engine.sampling import Sampler, SamplingParams
from brigade.errors import ConfigError, EngineStopped, RequestError

if TYPE_CHECKING:
    from torch import Tensor

    from brigade.parallel.messages import Times


class LLM(BlockingFace):
    """Loads once, then generates. `model`: a folder, `org/name` of the Hugging Face hub, an artifact of `brigade export`, a recipe,
    or None for the embedded model; `engine_settings` are the fields of `EngineConfig`. With `tp` or `pp` above 1 this process leads
    tp x pp ranks, and starts the others itself; under torchrun or srun every rank runs the same script, and only rank 0 comes back
    from here. `check` is called before the weights are read, with all that is decided by then: what it raises ends the loading."""

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
        numerics: str | None = None,
        threads: int | None = None,
        cpus: str | None = None,
        tp: int = 1,
        pp: int = 1,
        pp_layers: Sequence[int] | None = None,
        exchange: str = "auto",
        rank_timeout: float = 60.0,
        import_modules: Sequence[str] = (),
        progress: Callable[[int, int], None] | None = None,
        check: Check | None = None,
        sampler: Sampler | None = None,
        **engine_settings: Any,
    ) -> None:
        choices = Choices(
            model, dtype, backend, device, exact, random_weights, quant, skip_layers, numerics, threads, cpus, engine,
            engine_settings, tp, pp, pp_layers, exchange, rank_timeout, tuple(import_modules),
        )  # fmt: skip
        made = assemble(choices, sampler, progress, check)
        self._assembled, self._parts, self._sampler = made, made.parts, sampler
        self.plan, self.engine = made.plan, made.engine
        self.blueprint, self.model, self.tokenizer = made.parts.blueprint, made.parts.model, made.parts.tokenizer
        self.source, self.backend, self.dtype = self.blueprint.source, self.blueprint.backend, self.blueprint.dtype
        self.name, self.config = self.source.name, self.source.config
        self.numerics_id, self.number_formats = self.blueprint.numerics_id, self.blueprint.number_formats
        self.sampling_defaults, self.params = self.blueprint.sampling_defaults, self.blueprint.params
        self.default_params = self.params()
        self.thread = EngineThread(self.engine)

    def make_engine(self, kind: str, sampler: Sampler | None = None, **engine_settings: Any) -> Engine:
        """Another engine over the same weights, with a cache of its own. It is the caller's to step, from one thread, and to close.
        `sampler`: in place of the one that this LLM has."""
        ranks = self._assembled.ranks
        if ranks is not None and not ranks.is_open:
            raise EngineStopped(f"the other ranks are gone ({ranks.failure or 'this LLM was closed'}); make another LLM")
        config, limit = settle_engine(kind, {"max_model_len": self.blueprint.limit, **engine_settings}), self.blueprint.limit
        if model_length(self.config, config) > limit:
            raise ConfigError(f"max_model_len is {config.max_model_len}, but this model was loaded for {limit} positions")
        plan = self._assembled.plan_of(config)
        return self._parts.engine(plan, self._sampler if sampler is None else sampler, kind, config)

    def logits(self, prompts: Prompt | Sequence[Prompt]) -> list[Tensor]:
        """What the model says at every position, finite or not: one float32 tensor [length, vocabulary] a prompt."""
        params = SamplingParams(max_tokens=1)
        prepare = partial(self._prepare, collect_logits=True)
        numbers, inbox = self._submit(self._prepare_all(prompts, params, prepare), deltas=False)
        found: dict[int, Tensor] = {}
        try:
            while len(found) < len(numbers):
                said = received(inbox)
                if not isinstance(said, Logits):
                    raise RequestError(f"the logits of prompt {numbers[said.request_id]} could not be computed: {said.error}")
                found[numbers[said.request_id]] = said.logits_LV
        finally:
            self.thread.abort(numbers)
        return [found[number] for number in range(len(numbers))]

    def chat(self, messages: Sequence[Mapping[str, Any]], params: SamplingParams | None = None) -> RequestOutput:
        """The answer to one conversation: `messages` are {'role': ..., 'content': ...}, the last one asked."""
        return self.generate(self.chat_prompt(messages), params)[0]

    def chat_prompt(self, messages: Sequence[Mapping[str, Any]]) -> ChatPrompt:
        """The prompt a chat becomes, by the model's own template."""
        return write_chat(messages, self.tokenizer)

    def rank_times(self) -> list[Times]:
        """How each rank spent its time since the last call, in the order of ranks; nothing where there is one. To be asked while
        no request runs."""
        return [] if self._parts.leader is None else self._parts.leader.times()

    @property
    def has_tokenizer(self) -> bool:
        """Whether it reads and says text, and not ids alone."""
        return self.tokenizer is not None

    @property
    def layers_finished(self) -> int:
        """By all ranks since they were loaded: a step that takes long goes on counting, and one that hangs does not."""
        leader = self._parts.leader
        return self.model.layers_finished if leader is None else leader.ranks.layers()

    @property
    def failure(self) -> str | None:
        """Why nothing can be computed any more, also where nobody has asked for anything since; None as long as all is well."""
        ranks = self._assembled.ranks
        if ranks is not None and ranks.failure is not None:
            return str(ranks.failure)
        try:
            self.thread.check_open()
        except EngineStopped as error:
            return str(error)
        return None

    def weight_bytes(self) -> tuple[int, int]:
        """What a step reads, on all ranks together: all layers, and the head."""
        return self._assembled.weight_bytes()

    @cached_property
    def fingerprint(self) -> str:
        """One word for what this model computes with, the same on any layout and from any file: its weights as they are held, its
        architecture, its tokenizer and end ids. Made when it is asked for the first time, from all weights; an artifact has
        it with it."""
        self.thread.check_open()
        return loaded_fingerprint(self._parts)

    def close(self) -> None:
        """Stop the engine, and end the other ranks. Whoever waits for it, or comes later, is told by an `EngineStopped`."""
        try:
            self.thread.close()
        finally:
            if self._assembled.ranks is not None:
                self._assembled.ranks.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self, prompt: Prompt, params: Params, collect_logits: bool = False) -> Submission:
        if isinstance(params, Mapping):
            params = named_params(self.params, params)
        return self.engine.prepare(prompt, params, collect_logits=collect_logits)
