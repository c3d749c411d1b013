"""The fields that completions and chats share: read by type, refused by name, never ignored.

A body is decoded into a `Body`: what it does not list is refused with the field's name. What clients send out of habit and what
changes nothing here is listed in `HARMLESS`, and taken away before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from brigade.coordinator.messages import is_deeper
from brigade.engine.sampling.params import MAX_SALT
from brigade.serve.errors import ApiError

MOST_N = 128  # answers to one prompt
MOST_PROMPTS = 1024  # of one request
MOST_SAMPLES = 2048  # answers to all of its prompts together
MOST_DEPTH = 64  # of lists and objects in each other
MOST_STOPS = 64

# Fields of OpenAI's API that say nothing about the answer, and the values that may be given. None is "any".
HARMLESS: dict[str, tuple[Any, ...] | None] = {
    "user": None, "metadata": None, "safety_identifier": None, "prompt_cache_key": None, "store": (False,),
    "service_tier": ("auto", "default"), "modalities": (["text"],), "verbosity": ("medium",), "prompt_cache_retention": None,
}  # fmt: skip

# The same field under the name that vLLM gives it.
OTHER_NAMES = {"include_stop_str_in_output": "include_stop"}

Number = int | float
Count = Annotated[int, Meta(ge=0)]


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # padding against listeners who count bytes: false is all that there is


class Body(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """None, which some clients send for every field that they do not set, is as if the field were not there."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Meta(ge=1, le=MOST_N)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: str | list[str] | None = None
    temperature: Number | None = None
    top_p: Number | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None
    logit_bias: dict[str, Number] | None = None
    max_tokens: Count | None = None
    # Beside OpenAI's own.
    top_k: int | None = None
    min_p: Number | None = None
    repetition_penalty: Number | None = None
    min_tokens: Count | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    include_stop: bool | None = None
    skip_special_tokens: bool | None = None
    priority: int | None = None
    prompt_logprobs: Count | None = None
    return_token_ids: bool | None = None
    cache_salt: Annotated[str, Meta(max_length=MAX_SALT)] | None = None
    extra: dict[str, Any] | None = None

    def sampling(self) -> dict[str, Any]:
        """The sampling parameters that were given, by our own names."""
        given = {name: getattr(self, name) for name in PLAIN if getattr(self, name) is not None}
        if self.seed is not None:
            given["seed"] = self.seed % 2**64  # OpenAI's may be negative
        if self.stop is not None and self.stop != []:
            if isinstance(self.stop, list) and len(self.stop) > MOST_STOPS:
                raise ApiError(400, f"stop has {len(self.stop)} strings; {MOST_STOPS} are allowed", "stop")
            given["stop"] = self.stop
        if self.logit_bias:
            given["logit_bias"] = {_token(key): value for key, value in self.logit_bias.items()}
        if given.get("include_stop") and "stop" not in given:
            del given["include_stop"]  # has no effect, which vLLM's clients do not care about
        return given

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def check_stream(self) -> None:
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "stream_options has no effect without stream: true; drop it, or give stream", "stream_options")
        if self.stream_options is not None and self.stream_options.include_obfuscation:
            raise ApiError(
                400, "stream_options.include_obfuscation is true; this server pads no events: drop it",
                "stream_options.include_obfuscation", "unsupported_value",
            )  # fmt: skip


PLAIN = (
    "n", "temperature", "top_p", "presence_penalty", "frequency_penalty", "max_tokens", "top_k", "min_p", "repetition_penalty",
    "min_tokens", "stop_token_ids", "ignore_eos", "include_stop", "skip_special_tokens", "priority", "prompt_logprobs",
    "cache_salt", "extra",
)  # fmt: skip
T = TypeVar("T", bound=Body)


def _token(key: str) -> int:
    try:
        return int(key)
    except ValueError:
        raise ApiError(400, f'logit_bias names {key[:60]!r}; its keys are token ids, such as "50256"', "logit_bias") from None


def read_json(data: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, f"the body is not valid JSON ({error}); send one JSON object") from error
    except RecursionError as error:
        raise ApiError(400, f"the body nests deeper than {MOST_DEPTH} lists and objects; make it flatter") from error
    if not isinstance(found, dict):
        raise ApiError(400, f"the body is a {_kind(found)}; send one JSON object")
    if is_deeper(found, MOST_DEPTH):
        raise ApiError(400, f"the body nests deeper than {MOST_DEPTH} lists and objects; make it flatter")
    return found


def convert(found: Mapping[str, Any], kind: type[T]) -> T:
    for other, name in OTHER_NAMES.items():
        if other in found and name in found:
            raise ApiError(400, f"{other} and {name} are two names of one field; give one", other)
    found = {OTHER_NAMES.get(name, name): value for name, value in found.items()}
    for name, values in HARMLESS.items():
        if name in found and name not in kind.__struct_fields__:
            value = found.pop(name)
            if values is not None and value is not None and value not in values:
                allowed = " or ".join(msgspec.json.encode(one).decode() for one in values)
                raise ApiError(400, f"{name} is {_shown(value)}; this server knows only {allowed}", name, "unsupported_value")
    for name in found:
        if name not in kind.__struct_fields__:
            raise ApiError(
                400, f"{name[:100]!r} is not a field that this server knows here; drop it (docs/serve.md lists the fields)",
                name[:100], "unknown_parameter",
            )  # fmt: skip
    try:
        return msgspec.convert(found, kind)
    except msgspec.ValidationError as error:
        raise _refusal(str(error), found) from error


def _refusal(said: str, found: Mapping[str, Any]) -> ApiError:
    """msgspec says "Expected `int`, got `str` - at `$.max_tokens`"."""
    words, _, where = said.partition(" - at `$")
    where = where.rstrip("`").lstrip(".")
    missing = re.search(r"missing required field `(\w+)`", words)
    if missing:
        name = f"{where}.{missing[1]}" if where else missing[1]
        return ApiError(400, f"{name} is missing; give it", name, "missing_required_parameter")
    unknown = re.search(r"unknown field `(.*)`", words)
    if unknown:
        name = f"{where}.{unknown[1]}" if where else unknown[1]
        return ApiError(400, f"{name!r} is not a field that this server knows here; drop it", name, "unknown_parameter")
    top = re.split(r"[.\[]", where, maxsplit=1)[0]
    value = f" is {_shown(found[top])}" if where == top and top in found else ""
    return ApiError(400, f"{where}{value}: {words[:1].lower()}{words[1:]}", where or None, "invalid_type")


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else f"{text[:77]}..."


def _kind(value: Any) -> str:
    return {list: "list", str: "text", bool: "truth value", type(None): "null"}.get(type(value), "number")
