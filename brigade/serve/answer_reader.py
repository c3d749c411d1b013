"""The text of one answer, in pieces that are cut anywhere, as the parts of OpenAI's assistant message."""

from __future__ import annotations

from typing import Any

from brigade.serve.reasoning import ReasoningSplitter
from brigade.serve.tool_events import CallArguments, CallBegan, Content
from brigade.serve.tool_parser import ToolParser

Part = dict[str, Any]  # a `delta` of a stream


class AnswerReader:
    """Reasoning first, where the model marks it; then content and calls, where the request has tools; else content.

    `named`: the request names the function that must be called. OpenAI's API then says "stop" where it says "tool_calls" otherwise.
    """

    def __init__(self, splitter: ReasoningSplitter | None, parser: ToolParser | None, named: bool = False) -> None:
        self._splitter, self._parser, self._named = splitter, parser, named
        self._was_done = False  # before the text ended
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[Part] = []

    @property
    def is_done(self) -> bool:
        """The answer has the one call that it may have: stop generating, and treat the reason as "stop"."""
        return self._parser is not None and self._parser.is_done

    def feed(self, text: str) -> list[Part]:
        if self._splitter is None:
            return self._answer(text)
        parts: list[Part] = []
        for piece in self._splitter.feed(text):
            parts += self._answer(piece.text) if piece.kind == "content" else self._thought(piece.text)
        return parts

    def finish(self) -> list[Part]:
        """What was held back; once, at the end of the text."""
        self._was_done = self.is_done
        parts: list[Part] = []
        for piece in self._splitter.finish() if self._splitter is not None else ():
            parts += self._answer(piece.text) if piece.kind == "content" else self._thought(piece.text)
        return parts + (self._parts(self._parser.finish()) if self._parser is not None else [])

    def read_whole(self, text: str) -> Part:
        """The message of a text that is complete."""
        self.feed(text)
        self.finish()
        return self.message()

    def message(self) -> Part:
        """All of it; behind `finish`. Content is null beside calls, if there is none."""
        content = "".join(self._content)
        found: Part = {"role": "assistant", "content": None if self._calls and not content else content, "refusal": None}
        if self._reasoning:
            found["reasoning_content"] = "".join(self._reasoning)
        if self._calls:
            found["tool_calls"] = self._calls
        return found

    def finish_reason(self, said: str) -> str:
        if self._was_done:
            said = "stop"  # what followed the one call is no part of the answer
        return "tool_calls" if said == "stop" and self._calls and not self._named else said

    def _answer(self, text: str) -> list[Part]:
        if self._parser is not None:
            return self._parts(self._parser.feed(text))
        return self._parts([Content(text)] if text else [])

    def _thought(self, text: str) -> list[Part]:
        self._reasoning.append(text)
        return [{"reasoning_content": text}]

    def _parts(self, events: list[Any]) -> list[Part]:
        parts: list[Part] = []
        for event in events:
            match event:
                case Content(text):
                    self._content.append(text)
                    parts.append({"content": text})
                case CallBegan(index, call_id, name):
                    self._calls.append({"id": call_id, "type": "function", "function": {"name": name, "arguments": ""}})
                    new = {"id": call_id, "type": "function", "function": {"name": name, "arguments": ""}}
                    parts.append({"tool_calls": [{"index": index, **new}]})
                case CallArguments(index, text):
                    self._calls[index]["function"]["arguments"] += text
                    parts.append({"tool_calls": [{"index": index, "function": {"arguments": text}}]})
        return parts
