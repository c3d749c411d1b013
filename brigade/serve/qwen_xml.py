"""The calls of Qwen3-Coder: XML in which arguments have no types. The types come from the tool's schema."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from brigade.errors import RequestError
from brigade.serve.tool_grammar import Lark, in_regex
from brigade.serve.tool_parser import Reading, ToolParser
from brigade.serve.tools import Tool

_CLOSES = ("\n</parameter>", "</parameter>")
_PLAIN = {"type", "title", "description", "default", "examples", "enum", "const"}  # what the grammar of a text can keep to
_OF_TYPE = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object", type(None): "null"}


class QwenXMLParser(ToolParser):
    """The arguments are written as JSON: an argument of the type "string" as it comes, any other when it is whole. The outer mark
    may be missing, which these models forget at times."""

    def _answer(self) -> Reading:
        while True:
            marker = yield from self._text(("<tool_call>", "<function="))
            yield from self._attempt(self._block(marker))

    def _block(self, marker: str) -> Reading:
        if marker == "<tool_call>":
            yield from self._mark("<function=")
        name = yield from self._one_of(self._tools, ">")
        properties = self._tools[name].parameters.get("properties", {})
        self._begin_call(name)
        before = "{"
        while (yield from self._mark("<parameter=", "</function>")) == "<parameter=":
            key = yield from self._key()
            self._argue(f"{before}{_json(key)}: ")
            yield from self._value(properties.get(key, {}))
            before = ", "
        self._argue("{}" if before == "{" else "}")
        self._end_call(whole=True)
        if marker == "<tool_call>":
            yield from self._closing("</tool_call>")

    def _key(self) -> Reading:
        key = ""
        while (char := (yield from self._char())) != ">":
            if char in "<\n":
                self._broken()
            key += char
        return key

    def _value(self, schema: Any) -> Reading:
        if _types(schema) == {"string"}:
            self._argue('"')
            yield from self._until_close(lambda char: self._argue(_json(char)[1:-1]))
            self._argue('"')
        else:
            pieces: list[str] = []
            yield from self._until_close(pieces.append)
            self._argue(typed("".join(pieces), schema))

    def _until_close(self, say: Callable[[str], None]) -> Reading:
        """The text of a value, without the line breaks that its marks bring."""
        if (yield from self._char()) != "\n":
            self._back(1)
        part = ""
        while True:
            part += yield from self._char()
            if part in _CLOSES:
                return
            if not any(close.startswith(part) for close in _CLOSES):
                self._back(len(part) - 1)
                say(part[0])
                part = ""


def typed(text: str, schema: Any) -> str:
    """The JSON text of an argument: what the schema says it is, where the text can be read so; otherwise a JSON string."""
    types = _types(schema)
    plain = text.strip()
    if types is not None and "boolean" in types and plain.lower() in ("true", "false"):
        return plain.lower()
    if isinstance(schema, Mapping) and text in schema.get("enum", ()):
        return _json(text)
    try:
        value = json.loads(plain, parse_constant=_refused)
    except (ValueError, RecursionError):
        return _json(text)
    kinds = {_OF_TYPE[type(value)]} | ({"number"} if type(value) is int else set())
    kinds |= {"integer"} if isinstance(value, float) and value.is_integer() else set()
    # A quoted text is the quotes too, where a text is asked for.
    return plain if (types is None or kinds & types) and not isinstance(value, str) else _json(text)


def _types(schema: Any) -> set[str] | None:
    """The JSON types that a schema allows; None where it does not say."""
    if not isinstance(schema, Mapping):
        return None
    if isinstance(schema.get("type"), str):
        return {schema["type"]}
    if isinstance(schema.get("type"), list):
        return {one for one in schema["type"] if isinstance(one, str)}
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            each = [_types(one) for one in schema[key]]
            return None if None in each else set().union(*each)  # type: ignore[arg-type]
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    return {_OF_TYPE[type(value)] for value in values} if isinstance(values, list) and values else None


def xml_arguments(lark: Lark, tool: Tool) -> str:
    """The grammar of a tool's arguments: its properties in their order, the optional ones or not."""
    known = {"type", "properties", "required", "additionalProperties", "title", "description", "$schema"}
    if tool.strict and (unknown := sorted(set(tool.parameters) - known)):
        raise RequestError(
            f"the parameters of {tool.name} are strict and have {unknown[0]!r}, which the tool calls of this model (in XML) "
            "cannot be held to; leave it out, or strict"
        )
    required = tool.parameters.get("required", ())
    pieces = []
    for name, schema in tool.parameters.get("properties", {}).items():
        piece = f"{lark.literal(f'<parameter={name}>' + chr(10))} {_xml_value(lark, tool, name, schema)}"
        pieces.append(piece if name in required else f"({piece})?")
    return " ".join(pieces) or '""'


def _xml_value(lark: Lark, tool: Tool, name: str, schema: Any) -> str:
    end = "\n</parameter>\n"
    if _types(schema) != {"string"}:
        definitions = {key: tool.parameters[key] for key in ("$defs", "definitions") if key in tool.parameters}
        inner = definitions | (dict(schema) if isinstance(schema, Mapping) else {})
        return f"{lark.json(inner, tool.strict)} {lark.literal(end)}"
    if tool.strict and (unknown := sorted(set(schema) - _PLAIN)):
        raise RequestError(
            f"the parameter {name!r} of {tool.name} is strict and has {unknown[0]!r}, which a text in the tool calls of this model "
            "(in XML) cannot be held to; leave it out, or strict"
        )
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if values is not None:
        texts = [value for value in values if isinstance(value, str)]  # the others are no texts
        return "(" + " | ".join(map(lark.literal, texts or [""])) + f") {lark.literal(end)}"
    lark.rule("text_of_parameter[lazy]", rf"/(.|\n)*{in_regex(end)}/")
    return "text_of_parameter"


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _refused(name: str) -> Any:
    raise ValueError(name)
