"""What an answer is forced to be: a call where the request promises one, in the marks that the model's format has."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tokenizers

from brigade.errors import RequestError
from brigade.serve.tool_formats import MarkedFormat
from brigade.serve.tool_grammar import Reasoned, loosened
from brigade.serve.tools import ToolUse
from tests.serve.test_tools import BY_NAME, FORMAT_NAMES, TOOLS, TWO, WEATHER, tool
from tests.tokenizer.builders import byte_level


def with_marks(row: MarkedFormat, special: bool) -> tuple[MarkedFormat, tokenizers.Tokenizer]:
    """A tokenizer whose marks are special tokens or mere text, and the format that knows it."""
    inner = byte_level()
    marks = [*row.markers, "<think>", "</think>"]
    if special:
        inner.add_special_tokens([tokenizers.AddedToken(mark, special=True) for mark in marks])
    return replace(row, special={mark: inner.token_to_id(mark) for mark in row.markers if special}), inner


class Judge:
    """Whether a text may be written under a constraint, in a tokenizer's tokens."""

    def __init__(self, constraint: dict, inner: tokenizers.Tokenizer) -> None:
        llguidance = pytest.importorskip("llguidance")
        self._tokenizer, self._inner = llguidance.LLTokenizer(inner.to_str()), inner
        self._grammar = llguidance.LLMatcher.grammar_from_lark(constraint["grammar"])
        self._matcher = llguidance.LLMatcher

    def allows(self, text: str) -> bool:
        matcher = self._matcher(self._tokenizer, self._grammar)
        assert not matcher.get_error(), matcher.get_error()
        ids = self._inner.encode(text, add_special_tokens=False).ids
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_a_forced_call_is_a_call(name: str, special: bool) -> None:
    row, inner = with_marks(BY_NAME[name], special)
    judge = Judge(row.constraint(ToolUse.read(TOOLS, "required")), inner)
    assert judge.allows(TWO[name])
    for text in (
        "",
        "Hello",
        "Hello " + TWO[name],
        TWO[name].replace("now", "then"),
        TWO[name].replace("city", "town"),
        TWO[name][:-1],
    ):
        assert not judge.allows(text)
    one = Judge(row.constraint(ToolUse.read(TOOLS, "required", False)), inner)
    assert not one.allows(TWO[name])
    named = Judge(row.constraint(ToolUse.read(TOOLS, {"type": "function", "function": {"name": "now"}})), inner)
    assert not named.allows(TWO[name])


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_a_strict_tool_is_held_to_its_schema_where_the_model_may_choose(name: str, special: bool) -> None:
    row, inner = with_marks(BY_NAME[name], special)
    strict = [tool("get_weather", parameters=WEATHER | {"additionalProperties": False}, strict=True), TOOLS[1]]
    judge = Judge(row.constraint(ToolUse.read(strict)), inner)
    assert judge.allows(TWO[name]) and judge.allows("Hello, < [ world\n") and judge.allows("")
    assert not judge.allows(TWO[name].replace("city", "town"))
    if row.anywhere:
        assert judge.allows("Hello\n" + TWO[name])
        assert not judge.allows("Hello\n" + TWO[name].replace("get_weather", "then"))


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_the_model_is_free_where_nothing_is_promised(name: str) -> None:
    assert BY_NAME[name].constraint(ToolUse.read(TOOLS)) is None
    assert BY_NAME[name].constraint(ToolUse.read([tool(strict=True)], "none")) is None


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("opens", ["<think>", ""])
def test_reasoning_may_come_before_a_forced_call(special: bool, opens: str) -> None:
    row, inner = with_marks(BY_NAME["Hermes"], special)
    ids = {mark: inner.token_to_id(mark) for mark in ("<think>", "</think>") if special}
    judge = Judge(row.constraint(ToolUse.read(TOOLS, "required"), Reasoned("</think>", opens, ids)), inner)
    assert judge.allows(f"{opens}\nhm <\n</think>\n\n{TWO['Hermes']}")
    assert not judge.allows(TWO["Hermes"]) and not judge.allows(f"{opens}hm</think>Hello")


def test_what_a_schema_asks_of_arguments_is_forced() -> None:
    schema = {"type": "object", "required": ["at"], "properties": {"at": {"$ref": "#/$defs/at"}}, "$defs": {"at": {"enum": [1, 2]}}}
    for name, good, bad in [
        ("Hermes", '<tool_call>\n{"name": "f", "arguments": {"at": 2}}\n</tool_call>', "3"),
        ("Qwen XML", "<tool_call>\n<function=f>\n<parameter=at>\n2\n</parameter>\n</function>\n</tool_call>", "3"),
    ]:
        row, inner = with_marks(BY_NAME[name], True)
        judge = Judge(row.constraint(ToolUse.read([tool("f", parameters=schema)], "required")), inner)
        assert judge.allows(good) and not judge.allows(good.replace("2", bad))


def test_where_nothing_was_promised_a_schema_keeps_what_can_be_held() -> None:
    value = {
        "oneOf": [{"type": "string", "pattern": "(?=a)", "nullable": True}, {"$ref": "https://x"}],
        "maxlength": 3,
        "title": "t",
    }
    schema = {"type": "object", "properties": {"title": value}, "required": ["title"], "additionalProperties": {"format": "x"}}
    assert loosened(schema) == {
        "type": "object", "properties": {"title": {"anyOf": [{"type": "string"}, {}]}}, "required": ["title"],
        "additionalProperties": {}}  # fmt: skip
    row, inner = with_marks(BY_NAME["Hermes"], True)
    judge = Judge(row.constraint(ToolUse.read([tool("f", parameters=schema)], "required")), inner)
    assert judge.allows('<tool_call>\n{"name": "f", "arguments": {"title": "x"}}\n</tool_call>')


def test_a_strict_schema_that_xml_cannot_be_held_to_is_refused() -> None:
    for parameters in (
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "x+"}}},
        {"type": "object", "properties": {}, "oneOf": []},
    ):
        with pytest.raises(RequestError, match="strict and ha(s|ve)"):
            BY_NAME["Qwen XML"].constraint(ToolUse.read([tool(parameters=parameters, strict=True)]))
        assert BY_NAME["Qwen XML"].constraint(ToolUse.read([tool(parameters=parameters)], "required")) is not None
