"""The fields that completions and chats share: read by type, refused by name, never ignored.

A body is decoded into a `Body`: what it does not list is refused with the field's name. What clients send out of habit and what
changes nothing here is listed in `HARMLESS`, and taken away before. Refusals speak JSON, as the request does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from brigade.engine.sampling.params import MAX_SALT
from brigade.errors import shown_as_json as shown
from brigade.serve.errors import ApiError
from brigade.serve.not_json import not_json
from brigade.serve.unknown_field import unknown_field

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

LEAST_TOKENS = "it must be an integer of 1 or more, or 0 beside prompt_logprobs or echo"

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
    response_format: dict[str, Any] | None = None
    constraint: dict[str, Any] | None = None
    return_tokens_as_token_ids: bool | None = None

    def sampling(self) -> dict[str, Any]:
        """The sampling parameters that were given, by our own names."""
        given = {name: getattr(self, name) for name in PLAIN if getattr(self, name) is not None}
        if self.seed is not None:
            given["seed"] = self.seed % 2**64  # OpenAI's may be negative
        if self.stop is not None and self.stop != []:
            if isinstance(self.stop, list) and len(self.stop) > MOST_STOPS:
                raise ApiError(400, f"stop has {len(self.stop)} strings; {MOST_STOPS} are allowed: give fewer", "stop")
            given["stop"] = self.stop
        if self.logit_bias:
            given["logit_bias"] = {_token(key): value for key, value in self.logit_bias.items()}
        if given.get("include_stop") and "stop" not in given:
            del given["include_stop"]  # has no effect, which vLLM's clients do not care about
        return given

    @property
    def names(self) -> dict[str, str]:
        """The engine's names of fields that this request calls otherwise, and those."""
        if self.constraint is not None or self.response_format is None:
            return {}
        return {"constraint json_schema": "response_format.json_schema.schema", "constraint": "response_format"}

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
    """As JSON writes a number, so that no two keys are one token."""
    if re.fullmatch("0|[1-9][0-9]{0,18}", key) is None:
        raise ApiError(400, f'logit_bias names {shown(key)}; its keys are token ids, such as "50256"', "logit_bias")
    return int(key)


def read_json(data: bytes) -> dict[str, Any]:
    if not data.strip():
        raise ApiError(400, 'the body is empty; send one JSON object, such as {"prompt": "import "}')
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise not_json(data, error) from error
    except RecursionError as error:
        raise _too_deep() from error
    if not isinstance(found, dict):
        raise ApiError(400, f"the body is {_kind(found)}; send one JSON object")
    maybe = len(_QUOTE_AND_COLON.findall(data)) - len(_ESCAPED.findall(data))
    if _count_keys(found) != maybe or b'\\\\"' in data:
        _refuse_doubles(data)
    return found


# The ends of keys. A string may look like one, in its text or behind an escaped backslash; then the body is read again, slowly.
# Each pattern begins with a fixed byte, which is found fast in a long prompt.
_QUOTE_AND_COLON = re.compile(rb'"[ \t\n\r]*:')
_ESCAPED = re.compile(rb'\\"[ \t\n\r]*:')
_CONTAINERS = frozenset((dict, list))


def _count_keys(found: dict[str, Any]) -> int:
    """Of all its objects, level by level. Refused where they nest too deep."""
    level: list[Any] = [found]
    depth = keys = 0
    while level:
        depth += 1
        if depth > MOST_DEPTH:
            raise _too_deep()
        inner: list[Any] = []
        for one in level:
            values: Iterable[Any] = one
            if type(one) is dict:
                keys, values = keys + len(one), one.values()
            if not _CONTAINERS.isdisjoint(map(type, values)):  # a long prompt is not walked through in Python
                inner += [value for value in values if type(value) in _CONTAINERS]
        level = inner
    return keys


def _refuse_doubles(data: bytes) -> None:
    """A key that an object has twice: of two values one would be ignored."""
    double: str | None = None
    is_field = False

    def look(pairs: list[tuple[str, Any]]) -> None:
        nonlocal double, is_field
        names = {name for name, _ in pairs}
        is_field = len(names) < len(pairs)  # what is looked at last is the body itself
        if is_field:
            for name, _ in pairs:
                if name not in names:
                    double = name
                    break
                names.remove(name)

    try:
        json.loads(data.decode("utf-8", "surrogatepass"), object_pairs_hook=look, parse_int=str, parse_float=str)
    except RecursionError as error:  # in a value that another of the same key has replaced, which nobody counted
        raise _too_deep() from error
    if double is not None:
        name = shown(double) if not is_field else double[:60]
        where = "" if is_field else " in one object"
        raise ApiError(400, f"{name} is given twice{where}; give it once", double[:100] if is_field else None)


def _too_deep() -> ApiError:
    return ApiError(400, f"the body nests deeper than {MOST_DEPTH} lists and objects; make it flatter")


def convert(found: Mapping[str, Any], kind: type[T]) -> T:
    for other, name in OTHER_NAMES.items():
        if other in found and name in found:
            raise ApiError(400, f"{other} and {name} are two names of one field; give one", other)
    called = {name: other for other, name in OTHER_NAMES.items() if other in found}
    found = {OTHER_NAMES.get(name, name): value for name, value in found.items()}
    for name, values in HARMLESS.items():
        if name in found and name not in kind.__struct_fields__:
            value = found.pop(name)
            if values is not None and value is not None and value not in values:
                allowed = " or ".join(msgspec.json.encode(one).decode() for one in values)
                raise ApiError(400, f"{name} is {shown(value)}; this server knows only {allowed}", name, "unsupported_value")
    for name in found:
        if name not in kind.__struct_fields__:
            raise unknown_field(name, (*kind.__struct_fields__, *OTHER_NAMES), getattr(kind, "elsewhere", {}))
    try:
        return msgspec.convert(found, kind)
    except msgspec.ValidationError as error:
        raise _refusal(str(error), found, called) from error


def _refusal(said: str, found: Mapping[str, Any], called: Mapping[str, str]) -> ApiError:
    """msgspec says "Expected `int`, got `str` - at `$.max_tokens`". `called`: fields that the request calls otherwise."""
    words, _, where = said.partition(" - at `$")
    where = where.rstrip("`").lstrip(".")
    missing = re.search(r"missing required field `(\w+)`", words)
    if missing:
        name = f"{where}.{missing[1]}" if where else missing[1]
        return ApiError(400, f"{name} is missing; give it", name, "missing_required_parameter")
    unknown = re.search(r"unknown field `(.*)`", words)
    if unknown:
        name = f"{where}.{unknown[1]}" if where else unknown[1]
        return ApiError(400, f"{name} is not a field that this server knows here; drop it", name, "unknown_parameter")
    where = where.split("[...]")[0]  # msgspec's word for some value of an object, which is shown whole then
    remedy = REMEDIES.get(where) or _remedy(words)
    name = called.get(where, where)
    return ApiError(400, f"{name} is {shown(_at(found, where))}; {remedy}", name or None, "invalid_type")


def _at(value: Any, where: str) -> Any:
    """What stands at a place such as tools[0].function."""
    for name, number in re.findall(r"([^.\[\]]+)|\[(\d+)\]", where):
        value = value[name] if name else value[int(number)]
    return value


# Where the type alone does not say what is allowed.
REMEDIES = {"max_tokens": LEAST_TOKENS, "max_completion_tokens": LEAST_TOKENS}
_TYPES = {
    "int": "an integer", "float": "a number", "str": "a text", "bool": "true or false", "array": "an array", "object": "an object",
    "null": "null",
}  # fmt: skip


def _remedy(words: str) -> str:
    """msgspec's words are those of Python: "Expected `int | null`, got `str`", "Expected `int` >= 0"."""
    match = re.fullmatch(r"Expected `(.+?)`(?: (.+?))?(?:, got `(\w+)`)?", words)
    if match is None:
        return f"{words[:1].lower()}{words[1:]}; mend it"
    kinds, bound, got = match.groups()
    names = [name for name in kinds.split(" | ") if name != "null"]
    if "float" in names and "int" in names:
        names.remove("int")
    wanted = " or ".join(_TYPES.get(name, name) for name in names)
    if bound is not None:
        wanted += f" {bound}"
    return f"it must be {wanted}" if got is None else f"it must be {wanted}, not {_TYPES.get(got, got)}"


def _kind(value: Any) -> str:
    return {list: "an array", str: "a text", bool: "true or false", type(None): "null"}.get(type(value), "a number")
