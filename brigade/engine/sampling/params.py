"""What a request may ask of its sampling: validated once, every value refused by name with its range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from brigade.engine.constraint.given import checked_constraint
from brigade.engine.sampling.registry import check_extra
from brigade.errors import RequestError
from brigade.errors import shown_as_json as shown

MAX_LOGPROBS = 100
MAX_SALT = 256
MAX_KEPT = 64
# A logit of up to 1e30 in size stays finite in fp32 through penalties, bias and temperature, each at its bound, together.
MIN_TEMPERATURE = 1e-4  # 0 is the exact way to say colder
MIN_REPETITION, MAX_REPETITION = 0.01, 100.0


@dataclass(frozen=True)
class SamplingParams:
    """temperature 0 is greedy. top_k 0, top_p 1 and min_p 0 are off. max_tokens None: up to the model's limit.

    Penalties and bias act on the logits first, then temperature, then top_k, top_p and min_p together. Every value has bounds,
    such that finite logits of up to 1e30 in size stay finite whatever is asked for together.
    """

    temperature: float = 1.0  # 0, or from 0.0001 to 100
    top_k: int = 0  # 0 or more; more than the vocabulary is off
    top_p: float = 1.0  # above 0 and at most 1
    min_p: float = 0.0  # from 0 to 1
    seed: int | None = None  # from 0 to 2**64 - 1
    repetition_penalty: float = 1.0  # from 0.01 to 100; 1 is off
    presence_penalty: float = 0.0  # from -2 to 2
    frequency_penalty: float = 0.0  # from -2 to 2, for each time that the token was put out
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)  # from -100 to 100 each
    min_tokens: int = 0  # tokens before the last of these end nothing; a stop string counts where it ends
    max_tokens: int | None = 16
    stop: str | Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    n: int = 1
    logprobs: int | None = None  # the sampled token's, and so many of the most likely
    prompt_logprobs: int | None = None
    echo: bool = False  # begin the text with the prompt, as it was given
    priority: int = 0  # lower runs first
    include_stop: bool = False  # keep the stop string in the text
    skip_special_tokens: bool = True  # leave them out of the text
    keep_special_tokens: Sequence[str] = ()  # all but these
    cache_salt: str | None = None  # its prompt shares cached blocks with requests of the same salt alone
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)  # registered parameters of your own
    constraint: Mapping[str, Any] | None = field(default=None, hash=False)  # the form of the answer: one kind and its value

    # Asked of every row at every step, so worked out once.
    is_penalised: bool = field(init=False, repr=False, compare=False)
    edits_logits: bool = field(init=False, repr=False, compare=False)  # whether anything changes the logits before temperature
    stop_ids: frozenset[int] = field(init=False, repr=False, compare=False)
    is_plain: bool = field(init=False, repr=False, compare=False)  # greedy, and the greatest logit says it all

    def __post_init__(self) -> None:
        self._number("temperature", 0.0, 100.0)
        if 0 < self.temperature < MIN_TEMPERATURE:
            raise RequestError(
                f"temperature is {shown(self.temperature)}; it must be 0, which is greedy, "
                f"or a number from {MIN_TEMPERATURE:g} to 100"
            )
        self._integer("top_k", 0, None)
        self._number("top_p", 0.0, 1.0, open_below=True)
        self._number("min_p", 0.0, 1.0)
        self._integer("seed", 0, 2**64 - 1, optional=True)
        self._number("repetition_penalty", MIN_REPETITION, MAX_REPETITION)
        self._number("presence_penalty", -2.0, 2.0)
        self._number("frequency_penalty", -2.0, 2.0)
        self._integer("max_tokens", 0, None, optional=True, bound="of 1 or more, or 0 beside prompt_logprobs or echo")
        self._integer("min_tokens", 0, None)
        self._integer("n", 1, 1024)
        self._integer("logprobs", 0, MAX_LOGPROBS, optional=True)
        self._integer("prompt_logprobs", 0, MAX_LOGPROBS, optional=True)
        self._integer("priority", -(2**31), 2**31)
        for name in ("ignore_eos", "echo", "include_stop", "skip_special_tokens"):
            if not isinstance(getattr(self, name), bool):
                raise RequestError(f"{name} is {shown(getattr(self, name))}; it must be true or false")
        if not (self.cache_salt is None or isinstance(self.cache_salt, str)) or len(self.cache_salt or "") > MAX_SALT:
            raise RequestError(f"cache_salt is {shown(self.cache_salt)}; it must be a text of at most {MAX_SALT} characters")
        if self.cache_salt is not None and any("\ud800" <= char <= "\udfff" for char in self.cache_salt):
            raise RequestError("cache_salt has half of a surrogate pair, which is no character; remove it")
        stops = (self.stop,) if isinstance(self.stop, str) else self.stop
        if not _is_list(stops) or not all(isinstance(stop, str) and stop for stop in stops):
            raise RequestError(f"stop is {shown(self.stop)}; it must be one or more strings that are not empty")
        object.__setattr__(self, "stop", tuple(stops))
        if not _is_list(self.keep_special_tokens) or not all(isinstance(one, str) for one in self.keep_special_tokens):
            raise RequestError(f"keep_special_tokens is {shown(self.keep_special_tokens)}; it must be a list of texts")
        if len(self.keep_special_tokens) > MAX_KEPT:
            raise RequestError(f"keep_special_tokens has {len(self.keep_special_tokens)} entries; at most {MAX_KEPT} are allowed")
        object.__setattr__(self, "keep_special_tokens", tuple(self.keep_special_tokens))
        if not _is_list(self.stop_token_ids) or not all(_is_integer(i) and i >= 0 for i in self.stop_token_ids):
            raise RequestError(f"stop_token_ids is {shown(self.stop_token_ids)}; it must be a list of ids of 0 or more")
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids))
        object.__setattr__(self, "stop_ids", frozenset(self.stop_token_ids))
        for name in ("logit_bias", "extra"):
            if not isinstance(getattr(self, name), Mapping):
                raise RequestError(f"{name} is {shown(getattr(self, name))}; it must be an object (in Python a mapping)")
            object.__setattr__(self, name, dict(getattr(self, name)))  # the caller's may change later, this one not
        self._check_bias()
        self._check_lengths()
        check_extra(self.extra)
        if self.constraint is not None:
            object.__setattr__(self, "constraint", checked_constraint(self.constraint))
            self._check_beside_constraint()
        penalised = self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0
        object.__setattr__(self, "is_penalised", penalised)
        edits = bool(penalised or self.logit_bias or self.min_tokens or self.extra or self.constraint)
        object.__setattr__(self, "edits_logits", edits)
        object.__setattr__(self, "is_plain", self.is_greedy and not self.edits_logits and self.logprobs is None)

    def _number(self, name: str, low: float, high: float, open_below: bool = False) -> None:
        value = getattr(self, name)
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not good or not low <= value <= high or (open_below and value == low):  # NaN is in no range
            bound = f"above {low:g} and at most {high:g}" if open_below else f"from {low:g} to {high:g}"
            raise RequestError(f"{name} is {shown(value)}; it must be a number {bound}")

    def _integer(self, name: str, low: int, high: int | None, optional: bool = False, bound: str = "") -> None:
        value = getattr(self, name)
        if value is None and optional:
            return
        if not _is_integer(value) or value < low or (high is not None and value > high):
            bound = bound or (f"of {low} or more" if high is None else f"from {low} to {high}")
            raise RequestError(f"{name} is {shown(value)}; it must be an integer {bound}")

    def _check_bias(self) -> None:
        for token, bias in self.logit_bias.items():
            if not _is_integer(token) or token < 0:
                raise RequestError(f"logit_bias names token {shown(token)}; it must be an id of 0 or more")
            if not isinstance(bias, (int, float)) or isinstance(bias, bool) or not -100 <= bias <= 100:
                raise RequestError(f"logit_bias of token {token} is {shown(bias)}; it must be a number from -100 to 100")

    def _check_lengths(self) -> None:
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise RequestError(f"min_tokens is {self.min_tokens}, above max_tokens {self.max_tokens}; lower it")
        if self.max_tokens == 0 and self.prompt_logprobs is None and not self.echo:
            raise RequestError("max_tokens is 0; it must be 1 or more, or 0 beside prompt_logprobs or echo")
        if self.include_stop and not self.stop:
            raise RequestError("include_stop has no effect without stop strings; give stop, or drop it")

    def _check_beside_constraint(self) -> None:
        """A constraint says where an answer may end, so nothing else may put that off."""
        for name in ("min_tokens", "ignore_eos"):
            if getattr(self, name):
                raise RequestError(
                    f"{name} is {shown(getattr(self, name))}, but a constraint says where its answer may end; drop one of them"
                )
        if self.max_tokens == 0:
            raise RequestError("a constraint has no effect with max_tokens 0; drop it, or ask for tokens", "max_tokens")

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0

    def check_vocabulary(self, vocab_size: int) -> None:
        """Refuse ids the model does not have; for submission, where the vocabulary is known."""
        for name, ids in (("logit_bias", self.logit_bias), ("stop_token_ids", self.stop_token_ids)):
            for token in ids:
                if token >= vocab_size:
                    raise RequestError(f"{name} names token {token}; this model's ids go from 0 to {vocab_size - 1}")


PARAMETERS = tuple(one.name for one in fields(SamplingParams) if one.init)  # what a request may name


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))
