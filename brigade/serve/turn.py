"""The assistant's turn: the prompt that a conversation becomes, and how the text that follows is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from brigade.serve.errors import ApiError
from brigade.serve.job import Object
from brigade.serve.template import render
from brigade.tokenizer import Tokenizer

if TYPE_CHECKING:
    from brigade.serve.chat import ChatBody


@dataclass(frozen=True)
class Turn:
    """`constraint`: what the answer must look like so that it is the call that was asked for."""

    prompt: str
    constraint: dict[str, Any] | None = None

    def reader(self, index: int) -> TurnReader:
        return TurnReader()


class TurnReader:
    """The text of one answer, in pieces that are cut anywhere, becomes parts of a message."""

    def __init__(self) -> None:
        self._content: list[str] = []

    def feed(self, text: str) -> list[Object]:
        if not text:
            return []
        self._content.append(text)
        return [{"content": text}]

    def finish(self) -> list[Object]:
        return []

    def take_whole(self, text: str) -> None:
        self.feed(text)
        self.finish()

    def message(self) -> Object:
        return {"role": "assistant", "content": "".join(self._content), "refusal": None}

    def finish_reason(self, said: str) -> str:
        return said


def open_turn(body: ChatBody, tokenizer: Tokenizer) -> Turn:
    for name in ("tools", "tool_choice", "parallel_tool_calls"):
        if getattr(body, name) not in (None, []):
            raise ApiError(400, f"{name} is given, and tools are not supported yet; drop it", name)
    extra = dict(body.chat_template_kwargs or {})
    if body.reasoning_effort is not None:
        extra["reasoning_effort"] = body.reasoning_effort
    return Turn(render(tokenizer, body.messages, extra))
