"""The assistant's turn: the prompt that a conversation becomes, and how the text behind it is read: what the model thinks, what it
says, and which tools it calls."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from brigade.engine.constraint.given import checked_constraint
from brigade.errors import RequestError
from brigade.serve.answer_reader import AnswerReader
from brigade.serve.errors import ApiError, told_by
from brigade.serve.messages import normalise_messages, read_template_variables
from brigade.serve.reasoning import ReasoningMarks, detect_reasoning
from brigade.serve.template_traits import TemplateTraits
from brigade.serve.tool_formats import ToolFormat, format_for
from brigade.serve.tool_grammar import Lark, Reasoned
from brigade.serve.tools import ToolUse
from brigade.tokenizer import Tokenizer
from brigade.tokenizer.chat_template import ChatTemplate

if TYPE_CHECKING:
    from brigade.serve.chat import ChatBody


CLOSES = "</tool_call>"


@dataclass(frozen=True)
class Turn:
    """`params`: sampling parameters that this turn needs beside those that were given."""

    prompt: str
    params: Mapping[str, Any]
    use: ToolUse
    format: ToolFormat | None
    marks: ReasoningMarks | None

    def reader(self) -> AnswerReader:
        """Of one answer."""
        splitter = None if self.marks is None else self.marks.splitter(self.prompt)
        parser = None if self.format is None else self.format.parser(self.use, random.SystemRandom().randrange)
        return AnswerReader(splitter, parser, self.use.choice.mode == "named")


@lru_cache(maxsize=8)
def traits_of(chat: ChatTemplate, with_tools: bool) -> TemplateTraits:
    return TemplateTraits(chat, with_tools)


def open_turn(body: ChatBody, tokenizer: Tokenizer, constraint: Mapping[str, Any] | None) -> Turn:
    """`constraint`: what the answer must look like, by the request's own word."""
    with told_by(body.names):
        constraint = None if constraint is None else checked_constraint(constraint)
        use = ToolUse.read(body.tools, body.tool_choice, body.parallel_tool_calls)
        traits, special = traits_of(tokenizer.chat, use.is_on), tokenizer.special_token_ids
        format, marks = format_for(use, traits, special), detect_reasoning(traits.source)
        prompt = write_prompt(body.messages, body.chat_template_kwargs, tokenizer, use.for_template, body.reasoning_effort)
        reasoned = None if marks is None else marks.before_constraint(prompt, special)
        forced = None if format is None else format.constraint(use, reasoned)
    if use.is_on and constraint is not None:
        given = "constraint" if body.constraint is not None else "response_format"
        said = f"the answer of a request with tools may be a call, so {given} cannot hold; drop it, or give tool_choice none"
        raise ApiError(400, said, given)
    if constraint is not None and reasoned is not None:
        forced = _behind_reasoning(constraint, reasoned, special)
    elif forced is None:
        forced = None if constraint is None else dict(constraint)
    params: dict[str, Any] = {} if forced is None else {"constraint": forced}
    shown = [*(() if format is None else format.markers), *(() if marks is None else (marks.opens, marks.closes))]
    keep = [mark for mark in shown if mark in special]
    if keep:
        params["keep_special_tokens"] = keep  # else they would not be in the text that is read
    if format is not None and not (use.parallel and format.several) and CLOSES in format.markers and not body.stop:
        params |= {"stop": [CLOSES], "include_stop": True}  # the first call ends the answer
    return Turn(prompt, params, use, format, marks)


def write_prompt(
    messages: Any,
    variables: Any,
    tokenizer: Tokenizer,
    tools: list[dict[str, Any]] | None = None,
    reasoning_effort: str | None = None,
    add_generation_prompt: bool = True,
) -> str:
    """A conversation as the model's chat template writes it. `variables`: those that the request gives the template."""
    traits = traits_of(tokenizer.chat, tools is not None)
    found = read_template_variables(variables, traits)
    if reasoning_effort is not None:
        if "reasoning_effort" not in traits.chat.reads(traits.with_tools):
            raise RequestError("reasoning_effort is not read by this model's chat template; drop it")
        found["reasoning_effort"] = reasoning_effort
    given = {} if tools is None else {"tools": tools}
    return tokenizer.apply_chat_template(normalise_messages(messages, traits), add_generation_prompt, **given, **found)


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
            400, f"a constraint of the kind {kind} cannot hold where a model thinks first; give json_schema or choice, or turn "
            "thinking off by chat_template_kwargs", "constraint",
        )  # fmt: skip
    return lark.constraint(lark.rule("answer", start), reasoned)
