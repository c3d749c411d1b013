"""What a request may ask of the form of its answer: one kind and its value, checked once.

It becomes a plain mapping of texts, which travels in a message and in a prompts file, and is the same when it is checked again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from brigade.engine.constraint.lark import check_lark
from brigade.engine.constraint.schema import check_schema, read_schema
from brigade.errors import RequestError, shown_as_json

KINDS = ("json_schema", "json_object", "regex", "grammar", "choice")
MOST_CHARACTERS = 128 << 10  # of a schema, a regular expression, a grammar, or all choices together
MOST_CHOICES = 10_000
_GBNF = re.compile(r"^[ \t]*[A-Za-z][A-Za-z0-9-]*[ \t]*::=", re.MULTILINE)


def checked_constraint(given: Any) -> dict[str, Any]:
    """One kind with its value, as texts."""
    if not isinstance(given, Mapping) or len(given) != 1:
        has = f"has {len(given)} kinds" if isinstance(given, Mapping) else f"is {shown_as_json(given)}"
        raise RequestError(f"constraint {has}; it must be an object with exactly one of {', '.join(KINDS)}")
    ((kind, value),) = given.items()
    if kind not in KINDS:
        raise RequestError(f"constraint is of the kind {shown_as_json(kind)}; it must be one of {', '.join(KINDS)}")
    if kind == "json_object":
        if value is not True:
            raise RequestError(f"constraint json_object is {shown_as_json(value)}; it must be true, or drop the constraint")
        return {kind: True}
    if kind == "choice":
        return {kind: _choices(value)}
    if kind == "json_schema":
        if isinstance(value, str):
            _check_length(kind, value)
        text = json.dumps(_schema(value), separators=(",", ":"))
        _check_length(kind, text)
        return {kind: text}
    if not isinstance(value, str) or not value:
        raise RequestError(f"constraint {kind} is {shown_as_json(value)}; it must be a text that is not empty")
    _check_length(kind, value)
    if kind == "grammar":
        if _GBNF.search(value):
            raise RequestError(
                "constraint grammar is in GBNF, llama.cpp's syntax (root ::= ...); grammars are in Lark's here and begin with "
                'start, such as start: "yes" | "no" (docs/sampling.md has more)'
            )
        check_lark(value)
    return {kind: value}


def _schema(value: Any) -> dict[str, Any]:
    schema = read_schema(value, "constraint json_schema")
    check_schema(schema, "constraint json_schema")
    return schema


def _choices(value: Any) -> list[str]:
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or not value:
        raise RequestError(f"constraint choice is {shown_as_json(value)}; it must be a list of one or more texts")
    if len(value) > MOST_CHOICES:
        raise RequestError(f"constraint choice has {len(value)} texts; {MOST_CHOICES} are allowed: give fewer")
    seen: set[str] = set()
    for one in value:
        if not isinstance(one, str) or not one:
            raise RequestError(f"constraint choice has {shown_as_json(one)}; each must be a text that is not empty")
        if one in seen:
            raise RequestError(f"constraint choice has {shown_as_json(one)} twice; give each text once")
        seen.add(one)
    _check_length("choice", "".join(value))
    return list(value)


def _check_length(kind: str, text: str) -> None:
    if len(text) > MOST_CHARACTERS:
        raise RequestError(f"constraint {kind} has {len(text)} characters; {MOST_CHARACTERS} are allowed: shorten it")
    at = next((at for at, char in enumerate(text) if "\ud800" <= char <= "\udfff"), None)
    if at is not None:
        raise RequestError(f"constraint {kind} has half of a surrogate pair at {at}, which is no character; remove it")
