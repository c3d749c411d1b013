"""Messages of OpenAI's API become what templates expect, and what cannot be shown to the model is refused by its place."""

from __future__ import annotations

import copy
import json

import pytest

from brigade.errors import RequestError
from brigade.serve.messages import normalise_messages, read_template_variables
from brigade.serve.template_traits import CallShape, TemplateTraits
from brigade.serve.tools import ToolUse
from tests.serve import templates
from tests.serve.templates import WITH_TOOLS, chat, theirs

ID, SHORT = "call_ABCDEFGHIJKLMNOPQRSTUVWX", "AbC123xyZ"
ARGUMENTS = {"city": 'Köln "<1>"', "days": 3}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "d", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}}}]  # fmt: skip


def call(arguments: object = ARGUMENTS, call_id: str = ID, name: str = "weather") -> dict:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": text}}


def conversation(*calls: dict, content: object = None) -> list[dict]:
    answers = [{"role": "tool", "tool_call_id": one["id"], "content": "sunny"} for one in calls]
    return [{"role": "user", "content": "Weather?"}, {"role": "assistant", "content": content, "tool_calls": list(calls)}, *answers]


def normalised(messages: object, template: str = templates.HERMES, with_tools: bool = True) -> list[dict]:
    return normalise_messages(messages, TemplateTraits(chat(template), with_tools))


@pytest.mark.parametrize(
    ("name", "shape", "several", "beside"),
    [
        ("Hermes", CallShape(False, "", False), True, True),
        ("Llama", CallShape(False, "", False), False, False),
        ("Mistral", CallShape(False, "", True), True, False),
        ("Mistral [ARGS]", CallShape(False, "", False), True, True),
        ("Qwen XML", CallShape(False, "", False), True, True),
        ("DeepSeek V3", CallShape(True, None, False), True, False),
        ("DeepSeek V3.1", CallShape(True, None, False), True, False),
    ],
)
def test_templates_are_asked_what_they_understand(name: str, shape: CallShape, several: bool, beside: bool) -> None:
    traits = TemplateTraits(chat(WITH_TOOLS[name]), with_tools=True)
    assert traits.shows_tools and not traits.needs_parts
    assert (traits.calls, traits.several_calls, traits.content_beside_calls) == (shape, several, beside)


def test_a_template_without_tools_says_so() -> None:
    traits = TemplateTraits(chat(templates.PLAIN))
    assert not traits.shows_tools and traits.calls is None and not traits.several_calls


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_a_call_and_its_answer_read_as_transformers_would_write_them(name: str) -> None:
    """`transformers` is given by hand what each template's authors expect."""
    shape = TemplateTraits(chat(WITH_TOOLS[name]), with_tools=True).calls
    call_id = SHORT if shape.short_ids else ID
    ours = chat(WITH_TOOLS[name]).render(
        normalised(conversation(call(call_id=call_id)), WITH_TOOLS[name]), tools=ToolUse.read(TOOLS).for_template
    )
    arguments = json.dumps(ARGUMENTS, ensure_ascii=False) if shape.arguments_as_text else ARGUMENTS
    given = {"id": call_id, "type": "function", "function": {"name": "weather", "arguments": arguments}}
    expected = conversation(given, content=shape.no_content)
    assert ours == theirs(WITH_TOOLS[name], expected, tools=TOOLS)
    assert "weather" in ours and "sunny" in ours and "Köln" in ours


def test_content_without_words_is_the_same_however_it_is_given() -> None:
    for name, template in WITH_TOOLS.items():
        texts = {chat(template).render(normalised(conversation(call(), content=c), template), tools=TOOLS) for c in (None, "", [])}
        assert len(texts) == 1, name


def test_ids_become_short_where_the_template_refuses_others() -> None:
    messages = normalised(conversation(call(), call(call_id="call_2"), call(call_id=SHORT)), templates.MISTRAL)
    ids = [one["id"] for one in messages[1]["tool_calls"]]
    assert [len(one) for one in ids] == [9, 9, 9] and len(set(ids)) == 3 and ids[2] == SHORT
    assert [message["tool_call_id"] for message in messages[2:]] == ids
    chat(templates.MISTRAL).render(messages, tools=TOOLS)


def test_parts_are_joined_unless_the_template_reads_nothing_else() -> None:
    content = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert normalised([{"role": "user", "content": content}])[0]["content"] == "a\nb"
    assert normalised([{"role": "user", "content": content}], templates.PARTS)[0]["content"] == content
    assert normalised([{"role": "user", "content": "a"}], templates.PARTS)[0]["content"] == content[:1]


def test_developer_is_system_unless_the_template_names_it() -> None:
    messages = [{"role": "developer", "content": "x"}, {"role": "user", "content": "y"}]
    assert [m["role"] for m in normalised(messages)] == ["system", "user"]
    assert [m["role"] for m in normalised(messages, templates.DEVELOPER)] == ["developer", "user"]


def test_a_role_that_the_template_names_is_taken() -> None:
    assert normalised([{"role": "ipython", "content": "x"}], templates.LLAMA) == [{"role": "ipython", "content": "x"}]


def test_a_tools_answer_gets_the_name_of_its_function() -> None:
    messages = conversation(call())
    assert normalised(messages)[2] == {"role": "tool", "content": "sunny", "tool_call_id": ID, "name": "weather"}
    messages[2]["name"] = "own"
    assert normalised(messages)[2]["name"] == "own"


def test_what_an_answer_brings_beside_its_text_may_be_sent_back() -> None:
    sent = {"role": "assistant", "content": "Hi", "refusal": None, "annotations": [], "audio": None, "function_call": None,
            "tool_calls": None, "name": None}  # fmt: skip
    assert normalised([sent]) == [{"role": "assistant", "content": "Hi"}]
    sent = conversation(call() | {"index": 0})
    assert normalised(sent)[1]["tool_calls"][0] == {
        "id": ID, "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}  # fmt: skip


def test_old_reasoning_reaches_the_template_under_one_name() -> None:
    for field in ("reasoning", "reasoning_content"):
        messages = normalised([{"role": "assistant", "content": "Hi", field: "hm"}], templates.THINKING)
        assert messages == [{"role": "assistant", "content": "Hi", "reasoning_content": "hm"}]
        assert "<think>hm</think>" in chat(templates.THINKING).render(messages)


def test_a_request_is_not_changed() -> None:
    messages = conversation(call(), content=[{"type": "text", "text": "Let me see."}])
    before = copy.deepcopy(messages)
    normalised(messages)
    assert messages == before


def user(content: object) -> dict:
    return {"role": "user", "content": content}


IMAGE = {"type": "image_url", "image_url": {"url": "https://x"}}
BROKEN = {"id": ID, "type": "function", "function": {"name": "weather", "arguments": "{"}}


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "messages is []"),
        ("hello", 'messages is "hello"'),
        (["hello"], "messages[0] is"),
        ([{"content": "x"}], "messages[0].role is null"),
        ([{"role": "boss", "content": "x"}], 'messages[0].role is "boss"'),
        ([{"role": "function", "content": "x"}], "messages[0].role is 'function'"),
        ([user("x"), user([{"type": "text", "text": "a"}, IMAGE])], 'messages[1].content[1].type is "image_url"'),
        ([user([{"type": "input_audio", "input_audio": {}}])], 'messages[0].content[0].type is "input_audio"'),
        ([user(["x"])], "messages[0].content[0] is"),
        ([user([{"type": "text"}])], "messages[0].content[0].text is null"),
        ([user([{"type": "text", "text": "x", "cache_control": {}}])], "messages[0].content[0].cache_control is not known"),
        ([user([])], "messages[0].content is []"),
        ([user(None)], "messages[0].content is missing"),
        ([user(5)], "messages[0].content is 5"),
        ([{"role": "assistant", "content": None}], "messages[0].content is missing"),
        ([user("x") | {"name": 5}], "messages[0].name is 5"),
        ([user("x") | {"colour": "red"}], "messages[0].colour is not known"),
        ([user("x") | {"tool_calls": [call()]}], "messages[0].tool_calls is not known for the role 'user'"),
        ([{"role": "assistant", "content": "x", "audio": {"id": "a"}}], "messages[0].audio is not known"),
        ([{"role": "assistant", "tool_calls": {}, "content": "x"}], "messages[0].tool_calls is {}"),
        ([{"role": "assistant", "tool_calls": [5]}], "messages[0].tool_calls[0] is 5"),
        ([{"role": "assistant", "tool_calls": [BROKEN]}], "messages[0].tool_calls[0].function.arguments is"),
        ([{"role": "assistant", "tool_calls": [call("[1]")]}], "messages[0].tool_calls[0].function.arguments is"),
        ([{"role": "assistant", "tool_calls": [call('{"a": NaN}')]}], "messages[0].tool_calls[0].function.arguments is"),
        ([{"role": "assistant", "tool_calls": [call(name="a b")]}], "messages[0].tool_calls[0].function.name is"),
        ([{"role": "assistant", "tool_calls": [call() | {"id": 5}]}], "messages[0].tool_calls[0].id is 5"),
        ([{"role": "tool", "tool_call_id": "call_9", "content": "x"}], 'messages[0].tool_call_id is "call_9"'),
        ([{"role": "tool", "content": "x"}], "messages[0].tool_call_id is null"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(messages: object, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        normalised(messages)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_what_a_template_would_leave_out_is_refused() -> None:
    with pytest.raises(RequestError, match="can write only one of them"):
        normalised(conversation(call(), content="Let me see."), templates.LLAMA)
    with pytest.raises(RequestError, match=r"tool_calls has 2 calls, and .* one in a message"):
        normalised(conversation(call(), call(call_id="call_2")), templates.LLAMA)
    with pytest.raises(RequestError, match="no place for tool calls"):
        normalised(conversation(call()), templates.PLAIN, with_tools=False)


def test_tools_choose_the_template_whose_traits_count() -> None:
    both = chat({"default": templates.PLAIN, "tool_use": templates.HERMES})
    assert TemplateTraits(both, with_tools=False).calls is None
    assert TemplateTraits(both, with_tools=True).calls is not None
    assert both.source() == templates.PLAIN and both.source(with_tools=True) == templates.HERMES


def test_variables_of_the_template_are_taken_and_others_refused() -> None:
    traits = TemplateTraits(chat(templates.THINKING))
    assert read_template_variables(None, traits) == {}
    variables = read_template_variables({"enable_thinking": False}, traits)
    messages = normalised([user("x")], templates.THINKING, with_tools=False)
    assert chat(templates.THINKING).render(messages, **variables) == theirs(templates.THINKING, messages, enable_thinking=False)
    assert chat(templates.THINKING).render(messages, **variables).endswith("</think>\n\n")
    for raw, words in [
        (5, "chat_template_kwargs is 5"),
        ({"tools": []}, "chat_template_kwargs.tools is not allowed"),
        ({"messages": []}, "chat_template_kwargs.messages is not allowed"),
        ({"thinking": True}, "chat_template_kwargs.thinking is not read"),
    ]:
        with pytest.raises(RequestError, match=words):
            read_template_variables(raw, traits)
