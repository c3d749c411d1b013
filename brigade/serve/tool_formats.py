"""The formats in which models write tool calls: how each is recognised, read, and forced.

A model writes calls the way its chat template shows it calls, so the format is recognised by the template's text. A new format is
a parser, a row of `FORMATS`, a line of docs/tools.md, and a template in tests/serve/templates.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from brigade.errors import RequestError
from brigade.serve.qwen_xml import QwenXMLParser, xml_arguments
from brigade.serve.template_traits import TemplateTraits
from brigade.serve.tool_grammar import Lark, Reasoned
from brigade.serve.tool_parser import Reading, ToolParser
from brigade.serve.tools import DrawBelow, Tool, ToolUse, call_id

DS_CALLS, DS_CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
DS_CALL, DS_CALL_END, DS_SEP = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"


class HermesParser(ToolParser):
    """Each call in a block of its own, with content before, between and behind."""

    def _answer(self) -> Reading:
        while True:
            yield from self._text(("<tool_call>",))
            yield from self._attempt(self._block())

    def _block(self) -> Reading:
        yield from self._json_call()
        yield from self._closing("</tool_call>")


class LlamaParser(ToolParser):
    """The answer is calls from its first character on, or it is content. Several calls stand one after the other, with or without a
    semicolon between them."""

    def _answer(self) -> Reading:
        yield from self._attempt(self._calls())
        yield from self._text(())

    def _calls(self) -> Reading:
        if (yield from self._peek()) == "<":
            yield from self._mark("<|python_tag|>")
        yield from self._json_call()
        while True:
            between = yield from self._peek()
            if between == ";":
                yield from self._mark(";")
            elif between != "{":
                self._broken(back=len(self._held))
            yield from self._json_call()


class MistralParser(ToolParser):
    """A list of calls behind one mark, or a mark, a name and arguments for each call."""

    def _answer(self) -> Reading:
        while True:
            yield from self._text(("[TOOL_CALLS]",))
            yield from self._attempt(self._calls())

    def _calls(self) -> Reading:
        first = yield from self._peek()
        if first == "{":
            yield from self._json_call()
        elif first == "[":
            yield from self._mark("[")
            yield from self._json_call()
            while (yield from self._mark(",", "]")) == ",":
                yield from self._json_call()
        else:
            yield from self._named()

    def _named(self) -> Reading:
        name = yield from self._one_of(self._tools, "[")
        self._back(1)
        if (yield from self._mark("[ARGS]", "[CALL_ID]")) == "[CALL_ID]":  # an id of the model's own, which nobody knows
            while (char := (yield from self._char())) != "[":
                if not (char.isascii() and char.isalnum()):
                    self._broken()
            self._back(1)
            yield from self._mark("[ARGS]")
        yield from self._object_arguments(name)
        self._end_call()


class DeepSeekParser(ToolParser):
    """A list of calls between two marks. V3 and R1 write a kind, the name, and the arguments as a block of code; V3.1 writes the
    name and the arguments."""

    def _answer(self) -> Reading:
        while True:
            yield from self._text((DS_CALLS,))
            yield from self._attempt(self._calls())

    def _calls(self) -> Reading:
        while (yield from self._mark(DS_CALL, DS_CALLS_END)) == DS_CALL:
            word = yield from self._one_of((*self._tools, "function"), DS_SEP)
            if (yield from self._peek()) == "{":
                if word not in self._tools:
                    yield from self._char()
                    self._broken()
                yield from self._arguments(word, DS_CALL_END)
            elif word == "function":
                name = yield from self._one_of(self._tools, "\n```json")
                yield from self._arguments(name, "```")
                yield from self._closing(DS_CALL_END)
            else:
                yield from self._char()
                self._broken()

    def _arguments(self, name: str, end: str) -> Reading:
        yield from self._object_arguments(name)
        self._end_call()
        yield from self._closing(end)


class ToolFormat(Protocol):
    """How a model writes tool calls."""

    name: str

    @property
    def markers(self) -> tuple[str, ...]:
        """What the parser must see. Some are special tokens, which detokenization leaves out unless it is told otherwise."""

    def parser(self, use: ToolUse, draw: DrawBelow) -> ToolParser:
        """For one answer. `draw` gives the ids of its calls."""

    def constraint(self, use: ToolUse, reasoned: Reasoned | None = None) -> dict[str, Any] | None:
        """What `SamplingParams(constraint=...)` takes, so that the answer must be what the request promises: a call where a call
        is forced, and the schema where a tool is strict. None: the model is free. `reasoned`: the reasoning comes first."""


@dataclass(frozen=True)
class MarkedFormat:
    """A format whose calls are marks around the arguments. `before` has NAME where the function's name stands. `special`: the ids
    of those marks which are special tokens of the model's tokenizer; in a grammar they are no text."""

    name: str
    recognise: Callable[[str], bool]  # of a template's text
    read: type[ToolParser]
    markers: tuple[str, ...]
    before: str
    after: str
    opens: str = ""
    between: str = ""
    closes: str = ""
    arguments: Callable[[Lark, Tool], str] = Lark.arguments
    anywhere: bool = True  # calls may follow content; else they are the whole answer
    several: bool = True
    special: Mapping[str, int] = field(default_factory=dict)

    def parser(self, use: ToolUse, draw: DrawBelow) -> ToolParser:
        return self.read(use.callable, lambda: call_id(draw), use.parallel and self.several)

    def constraint(self, use: ToolUse, reasoned: Reasoned | None = None) -> dict[str, Any] | None:
        forced = use.choice.forces
        if not use.is_on or not (forced or any(tool.strict for tool in use.callable)):
            return None
        lark = Lark(self.special)
        if forced:
            start = self._calls(lark, use)
        elif not self.anywhere:
            start = f"{self._calls(lark, use)} | {lark.text(without_first='{')}"
        elif self.markers[0] in self.special:
            start = f"{lark.text()} {self._calls(lark, use)}?"
        else:  # the mark is text like any other: from its first place on, the answer is calls
            start = f"{lark.text()} | {lark.text_with(self.markers[0])} {self._calls(lark, use, read=self.markers[0])}"
        return lark.constraint(lark.rule("answer", start), reasoned)

    def _calls(self, lark: Lark, use: ToolUse, read: str = "") -> str:
        """One call or more; `read` is the mark of the first of them, where it was read already."""
        several = use.parallel and self.several
        for number, tool in enumerate(use.callable):
            call = self.before.replace("NAME", tool.name)
            rest = f"{lark.rule(f'arguments_{number}', self.arguments(lark, tool))} {lark.literal(self.after)}"
            lark.rule(f"first_{number}", f"{lark.literal((self.opens + call).removeprefix(read))} {rest}")
            if several:
                lark.rule(f"next_{number}", f"{lark.literal(self.between + call)} {rest}")
        lark.one_of("first", len(use.callable))
        more = f"({lark.one_of('next', len(use.callable))})*" if several else ""
        return lark.rule("calls", f"first {more} {lark.literal(self.closes)}")


def _has(*parts: str) -> Callable[[str], bool]:
    return lambda text: all(part in text for part in parts)


def _is_llama(text: str) -> bool:
    return all(re.search(rf"""\\?"{key}\\?":""", text) for key in ("name", "parameters"))


# The first that recognises the template wins.
FORMATS = (
    MarkedFormat(
        "DeepSeek V3", lambda text: DS_CALLS in text and "```json" in text, DeepSeekParser,
        markers=(DS_CALLS, DS_CALLS_END, DS_CALL, DS_CALL_END, DS_SEP),
        opens=DS_CALLS, before=f"{DS_CALL}function{DS_SEP}NAME\n```json\n", after=f"\n```{DS_CALL_END}", between="\n",
        closes=DS_CALLS_END,
    ),
    MarkedFormat(
        "DeepSeek V3.1", _has(DS_CALLS), DeepSeekParser,
        markers=(DS_CALLS, DS_CALLS_END, DS_CALL, DS_CALL_END, DS_SEP),
        opens=DS_CALLS, before=f"{DS_CALL}NAME{DS_SEP}", after=DS_CALL_END, closes=DS_CALLS_END,
    ),
    MarkedFormat(
        "Mistral [ARGS]", _has("[TOOL_CALLS]", "[ARGS]"), MistralParser,
        markers=("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"), before="[TOOL_CALLS]NAME[ARGS]", after="",
    ),
    MarkedFormat(
        "Mistral without a space", _has("[TOOL_CALLS]["), MistralParser,
        markers=("[TOOL_CALLS]",), opens="[TOOL_CALLS][", before='{"name": "NAME", "arguments": ', after="}", between=", ",
        closes="]",
    ),
    MarkedFormat(
        "Mistral", _has("[TOOL_CALLS]"), MistralParser,
        markers=("[TOOL_CALLS]",), opens="[TOOL_CALLS] [", before='{"name": "NAME", "arguments": ', after="}", between=", ",
        closes="]",
    ),
    MarkedFormat(
        "Qwen XML", _has("<tool_call>", "<function=", "<parameter="), QwenXMLParser,
        markers=("<tool_call>", "</tool_call>"), before="<tool_call>\n<function=NAME>\n", after="</function>\n</tool_call>",
        between="\n", arguments=xml_arguments,
    ),
    MarkedFormat(
        "Hermes", _has("<tool_call>"), HermesParser,
        markers=("<tool_call>", "</tool_call>"), before='<tool_call>\n{"name": "NAME", "arguments": ', after="}\n</tool_call>",
        between="\n",
    ),
    MarkedFormat(
        "Llama", _is_llama, LlamaParser,
        markers=("<|python_tag|>",), before='{"name": "NAME", "parameters": ', after="}", between="; ", anywhere=False,
    ),
)  # fmt: skip


def detect_format(template: str, special_tokens: Mapping[str, int] | None = None, several: bool = True) -> ToolFormat:
    """The format of a chat template that shows tools. `special_tokens`: all those of the tokenizer, with their ids. `several`:
    whether the template can write more than one call; where it cannot, an answer ends with its first."""
    for row in FORMATS:
        if row.recognise(template):
            ids = {mark: i for mark, i in (special_tokens or {}).items() if mark in row.markers}
            return replace(row, special=ids, several=several)
    raise RequestError(
        "the chat template of this model writes tool calls in a format that is not known here (docs/tools.md has the known ones); "
        "leave tools out, or use tool_choice 'none'"
    )


def format_for(use: ToolUse, traits: TemplateTraits, special_tokens: Mapping[str, int] | None = None) -> ToolFormat | None:
    """The format of the calls that a request may be answered with; None where it has no tools, or the model shall not see them.
    `traits` are those of the template for conversations with tools."""
    if not use.is_on:
        return None
    if not traits.shows_tools:
        raise RequestError("the chat template of this model has no place for tools; leave tools out, or use tool_choice 'none'")
    return detect_format(traits.source, special_tokens, traits.several_calls or traits.calls is None)
