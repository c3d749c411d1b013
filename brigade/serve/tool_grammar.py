"""Grammars that force tool calls, in the Lark dialect of llguidance: `%json {...}` is a JSON schema, `<[5]>` the token of id 5."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from brigade.serve.tools import Tool

# What a schema keeps where nothing was promised: what llguidance can hold in every form.
_SCHEMA_OR_VALUE = frozenset((
    "type", "enum", "const", "$ref", "minItems", "maxItems", "required", "minLength", "maxLength", "minimum", "maximum",
    "items", "additionalProperties",
))  # fmt: skip
_NAMED = ("properties", "$defs", "definitions")
_LISTED = {"anyOf": "anyOf", "oneOf": "anyOf", "allOf": "allOf", "prefixItems": "prefixItems"}


@dataclass(frozen=True, slots=True)
class Reasoned:
    """The answer begins with reasoning that ends with `closes`. `opens`: the mark that the answer itself writes; empty where the
    prompt ends inside the reasoning. `special`: ids of those marks which are special tokens."""

    closes: str
    opens: str
    special: Mapping[str, int]


class Lark:
    """Rules, and pieces for their right sides."""

    def __init__(self, special: Mapping[str, int]) -> None:
        self._special = dict(special)
        self._rules: dict[str, str] = {}

    def rule(self, name: str, body: str) -> str:
        self._rules[name] = body
        return name

    def literal(self, text: str) -> str:
        """A text, in which special tokens are what they are."""
        return _literal(text, self._special)

    def json(self, schema: Mapping[str, Any], strict: bool) -> str:
        """Where nothing was promised, a keyword that llguidance cannot hold is no reason to refuse the request."""
        return "%json " + json.dumps(schema if strict else loosened(schema))

    def arguments(self, tool: Tool) -> str:
        return self.json(tool.parameters, tool.strict)

    def text(self, without_first: str = "") -> str:
        """Any text; one that does not begin with a certain character, if so told."""
        if without_first:
            return self.rule("text_apart", rf"/(\s*[^\s{re.escape(without_first)}](.|\n)*)?/")
        return self.rule("text", r"/(.|\n)*/")

    def text_with(self, mark: str) -> str:
        """Any text up to the first place of a mark, and the mark."""
        self.rule("text_with_mark[lazy]", rf"/(.|\n)*{in_regex(mark)}/")
        return "text_with_mark"

    def one_of(self, name: str, count: int) -> str:
        return self.rule(name, " | ".join(f"{name}_{number}" for number in range(count)))

    def constraint(self, start: str, reasoned: Reasoned | None) -> dict[str, Any]:
        if reasoned is not None:
            start = self._after_reasoning(start, reasoned)
        lines = [f"start: {start}", *(f"{name}: {body}" for name, body in self._rules.items())]
        return {"grammar": "\n".join(lines) + "\n"}

    def _after_reasoning(self, start: str, reasoned: Reasoned) -> str:
        opens = _literal(reasoned.opens, reasoned.special)
        if reasoned.closes in reasoned.special:
            thought = f"{self.text()} {_literal(reasoned.closes, reasoned.special)}"
        else:
            self.rule("thought[lazy]", rf"/(.|\n)*{in_regex(reasoned.closes)}/")
            thought = "thought"
        return rf"{opens} {thought} /\s{{0,4}}/ {start}"


def loosened(schema: Any) -> Any:
    """A schema that allows whatever this one does, in keywords that can be held."""
    if not isinstance(schema, Mapping):
        return schema
    found: dict[str, Any] = {}
    for word, value in schema.items():
        if word in _NAMED and isinstance(value, Mapping):
            found[word] = {name: loosened(one) for name, one in value.items()}
        elif word in _LISTED and isinstance(value, list):
            found.setdefault(_LISTED[word], [loosened(one) for one in value])
        elif word in _SCHEMA_OR_VALUE and not (word == "$ref" and not str(value).startswith("#/")):
            found[word] = loosened(value) if word in ("items", "additionalProperties") else value
    return found


def _literal(text: str, special: Mapping[str, int]) -> str:
    if not text:
        return '""'
    marks = sorted(special, key=len, reverse=True)
    pieces = re.split("(" + "|".join(map(re.escape, marks)) + ")", text) if marks else [text]
    return " ".join(
        f"<[{special[piece]}]>" if piece in special else json.dumps(piece, ensure_ascii=False) for piece in pieces if piece
    )


def in_regex(text: str) -> str:
    return re.sub(r"([^\w\s<>|▁｜])", r"\\\1", text).replace("\n", r"\n")
