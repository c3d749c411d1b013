"""The assistant's turn: the prompt that a conversation becomes, and how the text behind it is read: what the model thinks, what it
says, and which tools it calls."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from brigade.errors import RequestError
from brigade.serve.errors import ApiError
from brigade.serve.job import Object
from brigade.serve.messages import normalise_messages, read_template_variables
from brigade.serve.reasoning import ReasoningMarks, detect_reasoning
from brigade.serve.template_traits import TemplateTraits
from brigade.serve.tool_events import CallArguments, CallBegan, Content, Event
from brigade.serve.tool_formats import ToolFormat, format_for
from brigade.serve.tool_grammar import Lark, Reasoned
from brigade.serve.tools import ToolUse
from brigade.tokenizer import Tokenizer
from brigade.tokenizer.chat_template import ChatTemplate

if TYPE_CHECKING:
    from brigade.serve.chat import ChatBody


@dataclass(frozen=True)
class Turn:
    """`params`: sampling parameters that this turn needs beside those that were given."""

    prompt: str
    params: Mapping[str, Any]
    use: ToolUse
    format: ToolFormat | None
    marks: ReasoningMarks | None

    def reader(self) -> TurnReader:
        return TurnReader(self)


class TurnReader:
    """The text of one answer, in pieces that are cut anywhere, becomes parts of a message."""

    def __init__(self, turn: Turn) -> None:
        self._splitter = None if turn.marks is None else turn.marks.splitter(turn.prompt)
        self._parser = None if turn.format is None else turn.format.parser(turn.use, random.SystemRandom().randrange)
        self._is_named = turn.use.choice.mode == "named"
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[Object] = []

    def feed(self, text: str) -> list[Object]:
        return self._read(text) if text else []

    def finish(self) -> list[Object]:
        parts: list[Object] = []
        if self._splitter is not None:
            for piece in self._splitter.finish():
                parts += self._reason(piece.text) if piece.kind == "reasoning" else self._say(piece.text)
        if self._parser is not None:
            parts += self._take(self._parser.finish())
        return parts

    def take_whole(self, text: str) -> None:
        self.feed(text)
        self.finish()

    def message(self) -> Object:
        said: str | None = "".join(self._content)
        found: Object = {"role": "assistant", "content": None if self._calls and not said else said, "refusal": None}
        if self._reasoning:
            found["reasoning_content"] = "".join(self._reasoning)
        if self._calls:
            found["tool_calls"] = [{name: value for name, value in call.items() if name != "index"} for call in self._calls]
        return found

    def finish_reason(self, said: str) -> str:
        """As OpenAI's API has it: a call that was named in the request ends like any other answer."""
        return "tool_calls" if said == "stop" and self._calls and not self._is_named else said

    def _read(self, text: str) -> list[Object]:
        if self._splitter is None:
            return self._say(text)
        parts: list[Object] = []
        for piece in self._splitter.feed(text):
            parts += self._reason(piece.text) if piece.kind == "reasoning" else self._say(piece.text)
        return parts

    def _reason(self, text: str) -> list[Object]:
        self._reasoning.append(text)
        return [{"reasoning_content": text}]

    def _say(self, text: str) -> list[Object]:
        return self._take([Content(text)] if self._parser is None else self._parser.feed(text))

    def _take(self, events: list[Event]) -> list[Object]:
        parts: list[Object] = []
        for event in events:
            match event:
                case Content(text):
                    self._content.append(text)
                    parts.append({"content": text})
                case CallBegan(index, id, name):
                    call = {"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""}}
                    self._calls.append({**call, "function": dict(call["function"])})
                    parts.append({"tool_calls": [call]})
                case CallArguments(index, text):
                    self._calls[index]["function"]["arguments"] += text
                    parts.append({"tool_calls": [{"index": index, "function": {"arguments": text}}]})
        return parts


@lru_cache(maxsize=8)
def traits_of(chat: ChatTemplate, with_tools: bool) -> TemplateTraits:
    return TemplateTraits(chat, with_tools)


def open_turn(body: ChatBody, tokenizer: Tokenizer, constraint: Mapping[str, Any] | None) -> Turn:
    """`constraint`: what the answer must look like, by the request's own word."""
    try:
        use = ToolUse.read(body.tools, body.tool_choice, body.parallel_tool_calls)
        traits = traits_of(tokenizer.chat, use.is_on)
        special = tokenizer.special_token_ids
        format, marks = format_for(use, traits, special), detect_reasoning(traits.source)
        messages = normalise_messages(body.messages, traits)
        variables = _variables(body, traits)
        if use.is_on:
            variables["tools"] = use.for_template
        prompt = tokenizer.apply_chat_template(messages, **variables)
    except RequestError as error:
        raise ApiError(400, str(error), _param(str(error))) from error
    reasoned = None if marks is None else marks.before_constraint(prompt, special)
    forced = None if format is None else format.constraint(use, reasoned)
    if forced is not None and constraint is not None:
        said = "the tools of this request say what the answer must look like, so response_format cannot; drop one of them"
        raise ApiError(400, said, "tools")
    if constraint is not None and reasoned is not None:
        forced = _behind_reasoning(constraint, reasoned, special)
    elif forced is None:
        forced = None if constraint is None else dict(constraint)
    params: dict[str, Any] = {} if forced is None else {"constraint": forced}
    shown = [*(getattr(format, "markers", ()) or ()), *((marks.opens, marks.closes) if marks is not None else ())]
    if any(mark in special for mark in shown):
        params["skip_special_tokens"] = False  # else the marks would not be in the text that is read
    return Turn(prompt, params, use, format, marks)


def _variables(body: ChatBody, traits: TemplateTraits) -> dict[str, Any]:
    found = read_template_variables(body.chat_template_kwargs, traits)
    if body.reasoning_effort is not None:
        if "reasoning_effort" not in traits.chat.reads(traits.with_tools):
            raise RequestError("reasoning_effort is not read by this model's chat template; drop it")
        found["reasoning_effort"] = body.reasoning_effort
    return found


def _behind_reasoning(constraint: Mapping[str, Any], reasoned: Reasoned, special: Mapping[str, int]) -> dict[str, Any]:
    """The same of what follows the reasoning."""
    lark = Lark({})
    ((kind, value),) = constraint.items()
    if kind == "json_object":
        start = lark.json({"type": "object"}, strict=True)
    elif kind == "json_schema":
        start = lark.json(json.loads(value) if isinstance(value, str) else value, strict=True)
    elif kind == "choice":
        start = " | ".join(map(lark.literal, value))
    else:
        raise ApiError(
            400, f"a constraint of the kind {kind!r} cannot hold where a model thinks first; give json_schema or choice, or turn its"
            " thinking off by chat_template_kwargs", "constraint",
        )  # fmt: skip
    return lark.constraint(lark.rule("answer", start), reasoned)


def _param(text: str) -> str | None:
    """The field that a refusal begins with, such as messages[0].role."""
    word = text.split(" ", 1)[0]
    return word if re.fullmatch(r"[a-z][a-zA-Z0-9_.\[\]]*", word) else None
