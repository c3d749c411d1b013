"""What a chat template understands, found by asking it: small conversations are rendered, and what comes out is looked at.

Templates are programs and come in every style, so their text says little about what they do with a message. The two things that no
rendering shows are read from the text: whether a role is named, and which marks an answer has.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

from brigade.errors import RequestError
from brigade.tokenizer.chat_template import ChatTemplate

_NAME, _KEY, _VALUE, _TEXT, _REMARK = "probe_function", "probe_key", "probe_value", "probe text", "probe remark"
_TOOL = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "probe",
        "parameters": {"type": "object", "properties": {_KEY: {"type": "string", "description": "probe"}}, "required": [_KEY]},
    },
}


@dataclass(frozen=True, slots=True)
class CallShape:
    """`arguments_as_text`: JSON text, where most templates want a mapping. `no_content`: the content of a message that has calls
    and nothing else. `short_ids`: nine letters and digits; Mistral's templates refuse any other id."""

    arguments_as_text: bool
    no_content: str | None
    short_ids: bool


class TemplateTraits:
    """One of a model's templates: the one for conversations with tools, or the one without. Each answer is found once."""

    def __init__(self, chat: ChatTemplate, with_tools: bool = False) -> None:
        self.chat, self.with_tools = chat, with_tools
        self.source = chat.source(with_tools)

    def names(self, role: str) -> bool:
        """Whether the template's text names a role. Many write any role, also one that the model was never taught."""
        return re.search(rf"""(["']){re.escape(role)}\1""", self.source) is not None

    @cached_property
    def shows_tools(self) -> bool:
        return _NAME in self._render([_user(_TEXT)], tools=[_TOOL])

    @cached_property
    def needs_parts(self) -> bool:
        """Content must be a list of parts. Where it may be a text it should be one: many templates take parts of users alone."""
        return _TEXT not in self._render([_user(_TEXT)]) and _TEXT in self._render([_user([{"type": "text", "text": _TEXT}])])

    @cached_property
    def calls(self) -> CallShape | None:
        """How a call must be given so that the template writes it whole; None where it writes none."""
        for arguments_as_text, no_content, short_ids in product((False, True), ("", None), (False, True)):
            shape = CallShape(arguments_as_text, no_content, short_ids)
            if self._shows_calls(shape, 1, no_content):
                return shape
        return None

    @cached_property
    def several_calls(self) -> bool:
        """Whether one message may have several calls."""
        return self.calls is not None and self._shows_calls(self.calls, 2, self.calls.no_content)

    @cached_property
    def content_beside_calls(self) -> bool:
        """Whether a message may have both content and calls."""
        return self.calls is not None and self._shows_calls(self.calls, 1, _REMARK)

    def _shows_calls(self, shape: CallShape, count: int, content: str | None) -> bool:
        calls, answers = [], []
        for number in range(count):
            name, key, value = (f"{one}_{number}" for one in (_NAME, _KEY, _VALUE))
            arguments = f'{{"{key}": "{value}"}}' if shape.arguments_as_text else {key: value}
            call_id = f"abcdefgh{number}" if shape.short_ids else f"call_abcdefghijklmnopqrstuvw{number}"
            calls.append({"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}})
            answers.append({"role": "tool", "tool_call_id": call_id, "content": "probe answer"})
        text = self._render([_user(_TEXT), {"role": "assistant", "content": content, "tool_calls": calls}, *answers])
        return (content or "") in text and all(
            f"{_NAME}_{number}" in text
            and f"{_VALUE}_{number}" in text
            # As JSON or some mark-up, not as Python writes a mapping, nor as a text inside a text.
            and re.search(rf"""(?<!')(?<!\\")\b{_KEY}_{number}\b(?!')""", text) is not None
            for number in range(count)
        )

    def _render(self, messages: Sequence[dict[str, Any]], tools: list[Any] | None = None) -> str:
        """What comes out; nothing where the template refuses."""
        if tools is None and self.with_tools and "tools" in self.chat.reads(with_tools=True):
            # Another function than that of the call, so that the call shows.
            tools = [{"type": "function", "function": {**_TOOL["function"], "name": "other"}}]
        try:
            return self.chat.render(list(messages), **({} if tools is None else {"tools": tools}))
        except RequestError:
            return ""


def _user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}
