"""Messages as OpenAI's API has them, turned into what chat templates expect. A refusal names the place: messages[3].content[0]."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from brigade.errors import RequestError
from brigade.errors import shown_as_json as shown
from brigade.serve.json_scanner import object_in
from brigade.serve.template_traits import TemplateTraits
from brigade.serve.tools import NAME

ROLES = ("system", "developer", "user", "assistant", "tool")
_FIELDS = {
    "assistant": ("role", "content", "name", "tool_calls", "reasoning_content", "reasoning"),
    "tool": ("role", "content", "name", "tool_call_id"),
}
_PLAIN_FIELDS = ("role", "content", "name")
# What OpenAI's own answers have beside these. Nothing is lost where they are empty, as they are when an answer is sent back.
_EMPTY = (
    "refusal",
    "annotations",
    "audio",
    "function_call",
    "tool_calls",
    "tool_call_id",
    "name",
    "reasoning_content",
    "reasoning",
)
RESERVED = ("messages", "tools", "add_generation_prompt")  # variables that a request sets by other means


def normalise_messages(messages: Any, traits: TemplateTraits) -> list[dict[str, Any]]:
    """What the template of `traits` reads, made from the messages of a request. Nothing of the request is changed.

    - Content is a text, its parts joined by line breaks; or a list of parts, where the template reads nothing else.
    - The arguments of calls become mappings, or stay text where the template wants that. Ids become short where it refuses others.
    - `developer` becomes `system` unless the template names that role.
    - A tool's answer gets the name of the function that it answers.
    - `reasoning` becomes `reasoning_content`. Whether old reasoning is shown is the template's choice, and so is a `name`.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise RequestError(
            f"messages is {shown(messages)}; give a list of one or more, such as {{'role': 'user', 'content': 'Hello'}}"
        )
    called: dict[str, str] = {}  # id -> function
    return [_message(message, f"messages[{number}]", traits, called) for number, message in enumerate(messages)]


def read_template_variables(raw: Any, traits: TemplateTraits) -> dict[str, Any]:
    """`chat_template_kwargs`, such as {"enable_thinking": false}: variables of the template's own."""
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        raise RequestError(f"chat_template_kwargs is {shown(raw)}; give an object such as {{'enable_thinking': false}}")
    reads = traits.chat.reads(traits.with_tools) - set(RESERVED)
    for name in raw:
        if name in RESERVED:
            raise RequestError(f"chat_template_kwargs.{name} is not allowed; the request has its own field for that")
        if name not in reads:
            known = ", ".join(sorted(reads)) or "none"
            raise RequestError(f"chat_template_kwargs.{name} is not read by this model's chat template (it reads {known}); drop it")
    return dict(raw)


def _message(raw: Any, place: str, traits: TemplateTraits, called: dict[str, str]) -> dict[str, Any]:
    if not isinstance(raw, Mapping):
        raise RequestError(f"{place} is {shown(raw)}; give {{'role': ..., 'content': ...}}")
    role = raw.get("role")
    if role == "function":
        raise RequestError(f"{place}.role is 'function', which OpenAI's API has replaced; give 'tool' with a tool_call_id")
    if not isinstance(role, str) or not (role in ROLES or traits.names(role)):
        raise RequestError(f"{place}.role is {shown(role)}; it must be one of {', '.join(ROLES)}")
    fields = _FIELDS.get(role, _PLAIN_FIELDS)
    for name, value in raw.items():
        if name not in fields and not (name in _EMPTY and value in (None, [], {})):
            raise RequestError(f"{place}.{name} is not known for the role {role!r}; it has {', '.join(fields)}")
    found: dict[str, Any] = {"role": "system" if role == "developer" and not traits.names("developer") else role}
    name = raw.get("name")
    if name is not None:
        if not isinstance(name, str) or not name:
            raise RequestError(f"{place}.name is {shown(name)}; give a text or leave it out")
        found["name"] = name
    if role == "assistant":
        return found | _assistant(raw, place, traits, called)
    if raw.get("content") is None:
        raise RequestError(f"{place}.content is missing; a message of the role {role!r} needs a text")
    found["content"] = _content(raw["content"], f"{place}.content", traits)
    if role == "tool":
        call_id = raw.get("tool_call_id")
        if not isinstance(call_id, str) or call_id not in called:
            raise RequestError(
                f"{place}.tool_call_id is {shown(call_id)}, which is no id of a tool call in an assistant message before it"
            )
        found |= {"tool_call_id": _id(call_id, traits), "name": found.get("name", called[call_id])}
    return found


def _assistant(raw: Mapping[str, Any], place: str, traits: TemplateTraits, called: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    calls, content = raw.get("tool_calls"), raw.get("content")
    for name in ("reasoning_content", "reasoning"):
        if raw.get(name) is not None:
            if not isinstance(raw[name], str):
                raise RequestError(f"{place}.{name} is {shown(raw[name])}; give a text or leave it out")
            found["reasoning_content"] = raw[name]
    if not calls and calls not in (None, []):
        raise RequestError(f"{place}.tool_calls is {shown(calls)}; give a list of calls or leave it out")
    if not calls:
        if content is None:
            raise RequestError(f"{place}.content is missing; a message of the role 'assistant' needs a text or tool_calls")
        return found | {"content": _content(content, f"{place}.content", traits)}
    if traits.calls is None:
        raise RequestError(f"{place}.tool_calls: the chat template of this model has no place for tool calls; leave them out")
    if not isinstance(calls, list | tuple):
        raise RequestError(f"{place}.tool_calls is {shown(calls)}; give a list of calls or leave it out")
    if content in (None, "", []):
        found["content"] = traits.calls.no_content
    elif traits.content_beside_calls:
        found["content"] = _content(content, f"{place}.content", traits)
    else:
        raise RequestError(
            f"{place} has content and tool_calls, and the chat template of this model can write only one of them; make content null"
        )
    if len(calls) > 1 and not traits.several_calls:
        raise RequestError(
            f"{place}.tool_calls has {len(calls)} calls, and the chat template of this model can write one in a message; "
            "give each call a message of its own, with the tool's answer behind it"
        )
    found["tool_calls"] = [_call(one, f"{place}.tool_calls[{number}]", traits, called) for number, one in enumerate(calls)]
    return found


def _call(raw: Any, place: str, traits: TemplateTraits, called: dict[str, str]) -> dict[str, Any]:
    assert traits.calls is not None
    function = raw.get("function") if isinstance(raw, Mapping) else None
    if not isinstance(function, Mapping) or raw.get("type", "function") != "function":
        raise RequestError(
            f"{place} is {shown(raw)}; give {{'id': ..., 'type': 'function', 'function': {{'name': ..., 'arguments': ...}}}}"
        )
    call_id, name, arguments = raw.get("id"), function.get("name"), function.get("arguments")
    for key in raw:
        if key not in ("id", "type", "function", "index"):  # an index is left where streamed calls were put together
            raise RequestError(f"{place}.{key} is not known; a call has id, type and function")
    if not isinstance(call_id, str) or not call_id:
        raise RequestError(f"{place}.id is {shown(call_id)}; give the id of the call, a text")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise RequestError(f"{place}.function.name is {shown(name)}; give 1 to 64 of the characters a-z, A-Z, 0-9, _ and -")
    if not isinstance(arguments, str) or (mapping := object_in(arguments or "{}")) is None:
        raise RequestError(f"{place}.function.arguments is {shown(arguments)}; give the JSON text of an object")
    called[call_id] = name
    given = (arguments or "{}") if traits.calls.arguments_as_text else mapping
    return {"id": _id(call_id, traits), "type": "function", "function": {"name": name, "arguments": given}}


def _id(call_id: str, traits: TemplateTraits) -> str:
    """As it is, or nine letters and digits made of it; equal ids stay equal."""
    if traits.calls is None or not traits.calls.short_ids or re.fullmatch(r"[a-zA-Z0-9]{9}", call_id):
        return call_id
    return hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).hexdigest()[:9]


def _content(raw: Any, place: str, traits: TemplateTraits) -> str | list[dict[str, str]]:
    if isinstance(raw, str):
        return [{"type": "text", "text": raw}] if traits.needs_parts else raw
    if not isinstance(raw, list | tuple) or not raw:
        raise RequestError(f"{place} is {shown(raw)}; give a text, or a list of parts such as {{'type': 'text', 'text': 'Hello'}}")
    texts = [_part(part, f"{place}[{number}]") for number, part in enumerate(raw)]
    return [{"type": "text", "text": text} for text in texts] if traits.needs_parts else "\n".join(texts)


def _part(raw: Any, place: str) -> str:
    if not isinstance(raw, Mapping):
        raise RequestError(f"{place} is {shown(raw)}; give {{'type': 'text', 'text': ...}}")
    kind = raw.get("type")
    key = {"text": "text", "refusal": "refusal"}.get(kind) if isinstance(kind, str) else None
    if key is None:
        raise RequestError(f"{place}.type is {shown(kind)}; this server reads texts alone: give {{'type': 'text', 'text': ...}}")
    if not isinstance(raw.get(key), str):
        raise RequestError(f"{place}.{key} is {shown(raw.get(key))}; give a text")
    if extra := sorted(set(raw) - {"type", key}):
        raise RequestError(f"{place}.{extra[0]} is not known; a part has type and {key}")
    return raw[key]
