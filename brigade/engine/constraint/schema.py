"""Which JSON schemas are taken: every keyword is known, and its effect is that of the standard or it is refused by name.

The compiler refuses what it cannot do, but it passes over words that it does not know, as the standard tells it to. Here a word
that is not known is a mistake (`maxlength`), or asks for something that would not happen (`nullable`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

from brigade.errors import RequestError, shown_as_json

MOST_DEPTH = 64  # of objects and lists in each other
MOST_PARTS = 2_000  # schemas within a schema, itself included; the time to compile them grows faster than their number
MOST_PATTERNS = 100  # names in patternProperties, which are compared in pairs
MOST_COMBINED = 8  # patterns of strings in a schema that combines some of them
MOST_MULTIPLE = 10_000  # the remainders that an automaton has to tell apart

SUPPORTED = frozenset((
    "type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "items", "prefixItems", "additionalItems", "minItems", "maxItems",
    "properties", "patternProperties", "additionalProperties", "required", "minProperties", "maxProperties", "minLength",
    "maxLength", "pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "$defs",
    "definitions",
))  # fmt: skip
TYPES = ("string", "number", "integer", "boolean", "object", "array", "null")
# They say nothing of which values are allowed.
ANNOTATIONS = frozenset((
    "$comment", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "contentMediaType",
    "contentEncoding",
))  # fmt: skip
AT_THE_TOP = frozenset(("$schema", "$id", "id"))

_NAMED = ("properties", "patternProperties", "$defs", "definitions")  # name -> schema
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
_COMBINING = frozenset(("$ref", "anyOf", "oneOf", "allOf"))
_SINGLE = ("items", "additionalItems", "additionalProperties")


def read_schema(value: Any, where: str) -> dict[str, Any]:
    """A mapping, or its JSON text, as plain JSON values. `where` begins the line of a refusal."""
    try:
        text = value if isinstance(value, str) else json.dumps(value, allow_nan=False, default=_plain)
        schema = json.loads(text, parse_constant=_refuse_constant)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"{where} cannot be read as JSON ({error}); mend it") from error
    if not isinstance(schema, dict):
        raise RequestError(f"{where} is {shown_as_json(schema)}; it must be an object")
    if (depth := _depth(schema)) > MOST_DEPTH:
        raise RequestError(f"{where} is {depth} levels deep; {MOST_DEPTH} are allowed: use $defs and $ref")
    return schema


def check_schema(schema: dict[str, Any], where: str) -> None:
    parts = dict(_parts(schema, "#"))
    if len(parts) > MOST_PARTS:
        raise RequestError(f"{where} has {len(parts)} schemas within it; {MOST_PARTS} are allowed: make it smaller")
    _check_patterns([part for part in parts.values() if isinstance(part, dict)], where)
    remainders = 1
    for place, part in parts.items():
        if isinstance(part, dict):
            _check_part(part, place, where, parts)
            remainders = math.lcm(remainders, _remainders(part, place, where))
            if remainders > MOST_MULTIPLE:
                raise RequestError(
                    f"{where} has multipleOf at {place} such that {remainders} remainders are to be told apart, all of the schema "
                    f"together; {MOST_MULTIPLE} are allowed: use a smaller or rounder number"
                )


def _check_patterns(parts: list[dict[str, Any]], where: str) -> None:
    """An automaton for several patterns at once may have as many states as the product of theirs."""
    names = sum(len(part["patternProperties"]) for part in parts if isinstance(part.get("patternProperties"), dict))
    if names > MOST_PATTERNS:
        raise RequestError(f"{where} has {names} names in patternProperties; {MOST_PATTERNS} are allowed: give fewer")
    patterns = sum("pattern" in part for part in parts)
    combines = any("allOf" in part or ("pattern" in part and not part.keys().isdisjoint(_COMBINING)) for part in parts)
    if combines and patterns > MOST_COMBINED:
        raise RequestError(
            f"{where} has {patterns} times pattern, and combines schemas by allOf or beside pattern; {MOST_COMBINED} are allowed "
            "then: write the schemas out"
        )


def _check_part(part: dict[str, Any], place: str, where: str, parts: Mapping[str, Any]) -> None:
    known = SUPPORTED | ANNOTATIONS | (AT_THE_TOP if place == "#" else frozenset())
    for word in part:
        if word not in known and (not word.startswith("x-") or word == "x-guidance"):
            raise RequestError(f"{where} has the keyword {word!r} at {place}, which is not supported there; drop or mend it")
    kinds = part.get("type")
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if isinstance(kind, str) and kind not in TYPES:
            raise RequestError(f"{where} has the type {shown_as_json(kind)} at {place}; the types are {', '.join(TYPES)}")
    if "$ref" in part:
        target = part["$ref"]
        if not isinstance(target, str) or unquote(target) not in parts:
            raise RequestError(f"{where} has $ref {target!r} at {place}; it must name a schema within it, such as '#/$defs/name'")
    least, required = part.get("minProperties", 0), part.get("required", [])
    if isinstance(least, (int, float)) and isinstance(required, list) and least > max(1, len(set(map(str, required)))):
        # Names of further properties may come twice, and then they count once.
        raise RequestError(
            f"{where} has minProperties {least} at {place}, which is not supported above 1 and the number of required "
            "properties; name them in required"
        )


def _parts(schema: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Every schema within a schema, by its place, itself first."""
    yield place, schema
    if not isinstance(schema, dict):
        return
    for word in _NAMED:
        if isinstance(inner := schema.get(word), dict):
            for name, one in inner.items():
                yield from _parts(one, f"{place}/{word}/{name.replace('~', '~0').replace('/', '~1')}")
    for word in (*_LISTED, "items"):
        if isinstance(inner := schema.get(word), list):
            for number, one in enumerate(inner):
                yield from _parts(one, f"{place}/{word}/{number}")
    for word in _SINGLE:
        if isinstance(schema.get(word), (dict, bool)):
            yield from _parts(schema[word], f"{place}/{word}")


def _remainders(part: dict[str, Any], place: str, where: str) -> int:
    """The divisor of `multipleOf` as a whole number: 0.25 is 25 hundredths."""
    divisor = part.get("multipleOf", 1)
    if not isinstance(divisor, (int, float)) or isinstance(divisor, bool) or not divisor > 0:
        raise RequestError(f"{where} has multipleOf {divisor!r} at {place}; it must be a number above 0")
    digits = Decimal(repr(divisor)).as_tuple().digits
    return int("".join(map(str, digits)).rstrip("0") or "0") if isinstance(divisor, float) else divisor


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level := [one for one in level if isinstance(one, (dict, list))]:
        depth += 1
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return depth


def _plain(value: Any) -> Any:
    """Mappings and sequences of other kinds; anything else is no JSON."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} is no JSON")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
