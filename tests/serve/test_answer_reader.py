"""An answer's text becomes the parts of a message, and the parts of a stream add up to the whole message."""

from __future__ import annotations

import random

import pytest

from brigade.serve.answer_reader import AnswerReader
from brigade.serve.reasoning import MARKS, ReasoningSplitter
from brigade.serve.tools import ToolUse
from tests.serve.test_tools import BY_NAME, TOOLS

TEXT = (
    '<think>hm</think>\n\nLet me see.\n<tool_call>\n{"name": "now", "arguments": {"a": 1}}\n</tool_call>\n'
    '<tool_call>{"name": "now"}'
)
CALL = {"type": "function", "function": {"name": "now", "arguments": '{"a": 1}'}}


def reader(think: bool = True, named: bool = False, **request: object) -> AnswerReader:
    parser = BY_NAME["Hermes"].parser(ToolUse.read(TOOLS, **request), random.Random(0).randrange)
    return AnswerReader(ReasoningSplitter(MARKS[0]) if think else None, parser, named)


def whole(one: AnswerReader, text: str = TEXT) -> dict:
    one.feed(text)
    one.finish()
    return one.message()


def test_a_message_has_reasoning_content_and_calls() -> None:
    message = whole(reader())
    ids = [call.pop("id") for call in message["tool_calls"]]
    assert len(set(ids)) == 2
    assert message == {
        "role": "assistant", "content": "Let me see.", "refusal": None, "reasoning_content": "hm",
        "tool_calls": [CALL, {"type": "function", "function": {"name": "now", "arguments": "{}"}}]}  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_the_parts_of_a_stream_add_up_to_the_message(size: int) -> None:
    one = reader()
    parts = [part for at in range(0, len(TEXT), size) for part in one.feed(TEXT[at : at + size])] + one.finish()
    calls: dict[int, dict] = {}
    for part in parts:
        for call in part.get("tool_calls", ()):
            if "id" in call:
                index = call["index"]
                calls[index] = {"id": call["id"], "type": "function", "function": dict(call["function"])}
            else:
                calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    assert list(calls.values()) == one.message()["tool_calls"] == whole(reader())["tool_calls"]
    assert "".join(part.get("content", "") for part in parts) == "Let me see."
    assert "".join(part.get("reasoning_content", "") for part in parts) == "hm"


def test_content_is_null_beside_calls_alone_and_a_text_everywhere_else() -> None:
    assert whole(reader(), '<tool_call>{"name": "now"}</tool_call>')["content"] is None
    assert whole(reader(), "") == {"role": "assistant", "content": "", "refusal": None}
    assert whole(AnswerReader(None, None), " Hi \n")["content"] == " Hi \n"


def test_the_finish_reason_tells_of_calls() -> None:
    called, plain, named = reader(), reader(), reader(named=True)
    for one, text in ((called, TEXT), (plain, "Hi"), (named, TEXT)):
        whole(one, text)
    assert [one.finish_reason("stop") for one in (called, plain, named)] == ["tool_calls", "stop", "stop"]
    assert called.finish_reason("length") == "length"


def test_what_follows_the_one_call_of_an_answer_says_nothing_of_its_end() -> None:
    one = reader(parallel_tool_calls=False)
    whole(one, TEXT + " and more, until it is cut off")
    assert one.finish_reason("length") == "tool_calls"


def test_the_one_call_of_an_answer_ends_it() -> None:
    one = reader(parallel_tool_calls=False)
    assert not one.is_done
    one.feed(TEXT)
    assert one.is_done and len(whole(one, " more")["tool_calls"]) == 1
