"""The tools of a request, as OpenAI's API gives them: what they may say, and which of them the model may or must call."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from brigade.errors import RequestError
from brigade.errors import shown_as_json as shown

MAX_TOOLS = 128
MAX_DEPTH = 64  # of objects and lists in each other
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_ID_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

DrawBelow = Callable[[int], int]  # of n: a number from 0 to n - 1, such as `random.Random(seed).randrange`


def call_id(draw: DrawBelow) -> str:
    """A new id of a call: equal draws give equal ids."""
    return "call_" + "".join(_ID_LETTERS[draw(len(_ID_LETTERS))] for _ in range(24))


@dataclass(frozen=True, slots=True)
class Tool:
    """One function. `parameters` is the JSON schema of its arguments, always of an object; `strict` promises that arguments keep to
    it. `for_template` is what the chat template gets: the tool as it was given, its parameters at least, but not `strict`."""

    name: str
    parameters: dict[str, Any]
    strict: bool
    for_template: dict[str, Any]

    @classmethod
    def read(cls, raw: Any, place: str) -> Tool:
        if not isinstance(raw, Mapping):
            raise RequestError(f"{place} is {shown(raw)}; give {{'type': 'function', 'function': {{...}}}}")
        _only(raw, ("type", "function"), place)
        if raw.get("type") != "function":
            raise RequestError(f"{place}.type is {shown(raw.get('type'))}; this server knows tools of the type 'function' alone")
        function = raw.get("function")
        if not isinstance(function, Mapping):
            raise RequestError(f"{place}.function is {shown(function)}; give its name, description and parameters")
        place += ".function"
        _only(function, ("name", "description", "parameters", "strict"), place)
        name, strict = function.get("name"), function.get("strict")
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise RequestError(f"{place}.name is {shown(name)}; give 1 to 64 of the characters a-z, A-Z, 0-9, _ and -")
        if not isinstance(function.get("description", ""), str | None):
            raise RequestError(f"{place}.description is {shown(function['description'])}; give a text or leave it out")
        if strict is not None and not isinstance(strict, bool):
            raise RequestError(f"{place}.strict is {shown(strict)}; it must be true or false")
        schema = _parameters(function.get("parameters"), place)
        seen = {key: value for key, value in function.items() if key != "strict" and value is not None}
        seen.setdefault("parameters", {"type": "object", "properties": {}})  # templates read it without asking
        return cls(name, schema, bool(strict), {"type": "function", "function": seen})


def _parameters(raw: Any, place: str) -> dict[str, Any]:
    """A function without parameters takes none, as in OpenAI's API."""
    if raw is None:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    if not isinstance(raw, Mapping):
        raise RequestError(f"{place}.parameters is {shown(raw)}; give a JSON schema of the type 'object'")
    if raw.get("type", "object") != "object":
        raise RequestError(f"{place}.parameters.type is {shown(raw['type'])}; arguments are an object, so it must be 'object'")
    properties, required = raw.get("properties", {}), raw.get("required", [])
    if not isinstance(properties, Mapping):
        raise RequestError(f"{place}.parameters.properties is {shown(properties)}; give an object of JSON schemas")
    for name, schema in properties.items():
        if not isinstance(schema, Mapping | bool):
            raise RequestError(f"{place}.parameters.properties.{name} is {shown(schema)}; give a JSON schema")
        kind, values = (None, None) if isinstance(schema, bool) else (schema.get("type"), schema.get("enum"))
        kinds = kind if isinstance(kind, list | tuple) else [kind]
        if not all(one is None or isinstance(one, str) for one in kinds):
            raise RequestError(f"{place}.parameters.properties.{name}.type is {shown(kind)}; give a name or a list of names")
        if not isinstance(values, list | tuple | None):
            raise RequestError(f"{place}.parameters.properties.{name}.enum is {shown(values)}; give a list of values")
    if not isinstance(required, list | tuple) or not all(isinstance(one, str) for one in required):
        raise RequestError(f"{place}.parameters.required is {shown(required)}; give a list of names")
    if (depth := _depth(raw)) > MAX_DEPTH:
        raise RequestError(f"{place}.parameters is {depth} levels deep; {MAX_DEPTH} are allowed: use $defs and $ref")
    return {"type": "object", **raw}


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`mode` is what may happen; `name` is of the one function that must be called, and only where the mode is "named"."""

    mode: Literal["auto", "none", "required", "named"]
    name: str | None = None

    @property
    def forces(self) -> bool:
        return self.mode in ("required", "named")

    @classmethod
    def read(cls, raw: Any, tools: Sequence[Tool]) -> ToolChoice:
        if raw is None:
            return cls("auto" if tools else "none")
        if not tools:
            if raw == "none":
                return cls("none")
            raise RequestError(f"tool_choice is {shown(raw)} but there are no tools; give tools, or leave tool_choice out")
        match raw:
            case "auto" | "none" | "required":
                return cls(raw)
            case {"type": "function", "function": {"name": str(name)}}:
                _only(raw, ("type", "function"), "tool_choice")
                _only(raw["function"], ("name",), "tool_choice.function")
                if name not in {tool.name for tool in tools}:
                    raise RequestError(f"tool_choice names {name!r}, which is none of the tools: {_listed(tools)}")
                return cls("named", name)
        raise RequestError(
            f"tool_choice is {shown(raw)}; it must be 'auto', 'none', 'required' or "
            "{'type': 'function', 'function': {'name': ...}}"
        )


@dataclass(frozen=True, slots=True)
class ToolUse:
    """Everything that a request says about tools. `parallel`: an answer may have several calls."""

    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = ToolChoice("none")
    parallel: bool = True

    @classmethod
    def read(cls, tools: Any = None, tool_choice: Any = None, parallel_tool_calls: Any = None) -> ToolUse:
        found = read_tools(tools)
        if parallel_tool_calls is not None and not isinstance(parallel_tool_calls, bool):
            raise RequestError(f"parallel_tool_calls is {shown(parallel_tool_calls)}; it must be true or false")
        if parallel_tool_calls is not None and not found:
            raise RequestError("parallel_tool_calls is given but there are no tools; give tools, or leave it out")
        return cls(found, ToolChoice.read(tool_choice, found), parallel_tool_calls is not False)

    @property
    def is_on(self) -> bool:
        """Whether the model is shown the tools, and its answer is searched for calls."""
        return self.choice.mode != "none"

    @property
    def callable(self) -> tuple[Tool, ...]:
        """What the answer may call."""
        if self.choice.mode == "named":
            return tuple(tool for tool in self.tools if tool.name == self.choice.name)
        return self.tools if self.is_on else ()

    @property
    def for_template(self) -> list[dict[str, Any]] | None:
        """For the template's variable `tools`. All of them, also where one is named: an equal prompt can be reused."""
        return [tool.for_template for tool in self.tools] if self.is_on else None


def read_tools(raw: Any) -> tuple[Tool, ...]:
    if raw is None:
        return ()
    if not isinstance(raw, list | tuple) or not raw:
        raise RequestError(f"tools is {shown(raw)}; give a list of 1 to {MAX_TOOLS} tools, or leave it out")
    if len(raw) > MAX_TOOLS:
        raise RequestError(f"tools has {len(raw)} entries; at most {MAX_TOOLS} are allowed")
    found: dict[str, Tool] = {}
    for number, one in enumerate(raw):
        tool = Tool.read(one, f"tools[{number}]")
        if tool.name in found:
            raise RequestError(f"tools[{number}].function.name is {tool.name!r} again; give each function a name of its own")
        found[tool.name] = tool
    return tuple(found.values())


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level := [one for one in level if isinstance(one, Mapping | list | tuple)]:
        depth += 1
        level = [inner for one in level for inner in (one.values() if isinstance(one, Mapping) else one)]
    return depth


def _only(raw: Mapping[str, Any], known: Sequence[str], place: str) -> None:
    for name in raw:
        if name not in known:
            raise RequestError(f"{place}.{name} is not known; {place} has {', '.join(known)}")


def _listed(tools: Sequence[Tool]) -> str:
    names = [tool.name for tool in tools]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
