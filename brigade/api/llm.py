"""`LLM`: from a path or a recipe to text, in one object. The blocking face of the engine's thread.

Any number of threads may call one `LLM` at once: their requests join the same batch, and no call sees another's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from brigade.api.stream import Stream, received
from brigade.assembly.assemble import assemble
from brigade.assembly.choices import Choices, settle_engine
from brigade.assembly.fingerprint import loaded_fingerprint
from brigade.engine.engine import Engine, Submission
from brigade.engine.engine_thread import EngineThread, Logits
from brigade.engine.memory_plan import model_length
from brigade.engine.outputs import RequestOutput
from brigade.engine.prompt import ChatPrompt, Prompt, as_prompts
from brigade.engine.sampling import Sampler, SamplingParams
from brigade.errors import ConfigError, EngineStopped, RequestError

if TYPE_CHECKING:
    from torch import Tensor

    from brigade.parallel.messages import Times

Params = SamplingParams | Sequence[SamplingParams] | None


class LLM:
    """Loads once, then generates. `model`: a folder, an artifact of `brigade export`, a recipe, or None for the embedded model;
    `engine_settings` are the fields of `EngineConfig`. With `tp` or `pp` above 1 this process leads tp x pp ranks, and starts the
    others itself; under torchrun or srun every rank runs the same script, and only rank 0 comes back from here."""

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
        sampler: Sampler | None = None,
        **engine_settings: Any,
    ) -> None:
        choices = Choices(
            model, dtype, backend, device, exact, random_weights, quant, skip_layers, numerics, threads, cpus, engine,
            engine_settings, tp, pp, pp_layers, exchange, rank_timeout, tuple(import_modules),
        )  # fmt: skip
        made = assemble(choices, sampler, progress)
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

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: Params = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[RequestOutput]:
        """Run all prompts to their end; outputs come in the order of the prompts, the k-th with the request id `str(k)`. One bad
        prompt refuses them all, before any work. A request that fails later ends alone: its finish reason is "error"."""
        numbers, inbox = self._submit(self._prepare(prompts, params), deltas=False)
        outputs: dict[int, RequestOutput] = {}
        try:
            while len(outputs) < len(numbers):
                output = received(inbox)
                number = numbers[output.request_id]
                outputs[number] = replace(output, request_id=str(number))
                if progress is not None:
                    progress(len(outputs), len(numbers))
        finally:
            self.thread.abort(numbers)
        return [outputs[number] for number in range(len(numbers))]

    def stream(self, prompts: Prompt | Sequence[Prompt], params: Params = None) -> Stream:
        """Deltas as they come; the k-th prompt's request id is `str(k)`. Leaving the loop early aborts what is left."""
        return Stream(self.thread, *self._submit(self._prepare(prompts, params), deltas=True))

    def logits(self, prompts: Prompt | Sequence[Prompt]) -> list[Tensor]:
        """What the model says at every position, finite or not: one float32 tensor [length, vocabulary] a prompt."""
        numbers, inbox = self._submit(self._prepare(prompts, SamplingParams(max_tokens=1), collect_logits=True), deltas=False)
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
        if not isinstance(messages, Sequence) or not messages or not all(isinstance(one, Mapping) for one in messages):
            raise RequestError(
                "a conversation is a list of messages such as {'role': 'user', 'content': 'Hello'}; "
                f"this is {'an empty list' if isinstance(messages, list) and not messages else f'a {type(messages).__name__}'}"
            )
        if self.tokenizer is None:
            raise RequestError("this model has no tokenizer, so it has no chat template either; give token ids as a prompt")
        return ChatPrompt(self.tokenizer.apply_chat_template(messages))

    def rank_times(self) -> list[Times]:
        """How each rank spent its time since the last call, in the order of ranks; nothing where there is one. To be asked while
        no request runs."""
        return [] if self._parts.leader is None else self._parts.leader.times()

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
        self.thread.close()
        if self._assembled.ranks is not None:
            self._assembled.ranks.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self, prompts: Prompt | Sequence[Prompt], params: Params, collect_logits: bool = False) -> list[Submission]:
        prompts = as_prompts(prompts)
        each = list(params) if isinstance(params, (list, tuple)) else [params] * len(prompts)
        if len(each) != len(prompts):
            raise RequestError(f"{len(prompts)} prompts but {len(each)} sampling parameters; give one for all, or one each")
        prepared = []
        for number, (prompt, one) in enumerate(zip(prompts, each, strict=True)):
            try:
                prepared.append(self.engine.prepare(prompt, one, collect_logits=collect_logits))
            except RequestError as error:
                raise RequestError(f"prompt {number}: {error}" if len(prompts) > 1 else str(error)) from error
        return prepared

    def _submit(self, prepared: list[Submission], deltas: bool) -> tuple[dict[str, int], SimpleQueue[Any]]:
        """The requests' ids with the numbers of their prompts, and where their answers come."""
        inbox: SimpleQueue[Any] = SimpleQueue()
        ids = self.thread.submit(prepared, inbox.put, deltas)
        return {name: number for number, name in enumerate(ids)}, inbox
