"""OpenAI's client asks for JSON and for tools. The embedded model was never trained for them: what its answers must look like is
enforced."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest

from brigade import LLM
from brigade.serve.chat import read_chat
from tests.serve.servers import Running, serving
from tests.serve.templates import HERMES

MESSAGES = [{"role": "user", "content": "What is the weather?"}]
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
    "required": ["name", "age"], "additionalProperties": False,
}  # fmt: skip
CITY = {
    "type": "object", "properties": {"city": {"enum": ["Berlin", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"], "additionalProperties": False,
}  # fmt: skip
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "forecast", "description": "The weather", "parameters": CITY}},
    {"type": "function", "function": {"name": "now"}},
]


@pytest.fixture(scope="module")
def hermes(llm: LLM) -> Iterator[Running]:
    """The embedded model behind a template that writes calls."""
    with serving(llm, tokenizer=llm.tokenizer.with_template(HERMES)) as made:
        yield made


@pytest.fixture
def client(hermes: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{hermes.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def ask(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(**{"model": "mini", "messages": MESSAGES, "max_tokens": 200, "seed": 1} | more)


@pytest.mark.parametrize("seed", range(4))
def test_an_answer_by_a_schema(client, seed: int) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    choice = ask(client, response_format=wanted, seed=seed).choices[0]
    assert choice.finish_reason == "stop"
    jsonschema.validate(json.loads(choice.message.content), PERSON)


def test_a_streamed_answer_by_a_schema_is_the_same(client) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    chunks = ask(client, response_format=wanted, stream=True)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == ask(client, response_format=wanted).choices[0].message.content


def test_a_call_that_is_required(client) -> None:
    choice = ask(client, tools=TOOLS, tool_choice="required", parallel_tool_calls=False).choices[0]
    (call,) = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    assert call.type == "function" and call.id.startswith("call_") and call.function.name in ("forecast", "now")
    arguments = json.loads(call.function.arguments)
    if call.function.name == "forecast":
        jsonschema.validate(arguments, CITY)


@pytest.mark.parametrize("name", ["forecast", "now"])
def test_a_call_that_is_named(client, name: str) -> None:
    named = {"type": "function", "function": {"name": name}}
    choice = ask(client, tools=TOOLS, tool_choice=named, parallel_tool_calls=False).choices[0]
    assert [call.function.name for call in choice.message.tool_calls] == [name] and choice.finish_reason == "stop"


def test_a_streamed_call_joins_to_the_whole(client) -> None:
    settings = {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "forecast"}}, "parallel_tool_calls": False}
    whole = ask(client, **settings).choices[0].message.tool_calls[0].function
    name, arguments, ids = "", "", set()
    for chunk in ask(client, **settings, stream=True):
        for choice in chunk.choices:
            for call in choice.delta.tool_calls or ():
                name += call.function.name or ""
                arguments += call.function.arguments or ""
                ids |= {call.id} if call.id else set()
    assert (name, arguments) == (whole.name, whole.arguments) and len(ids) == 1


def test_an_answer_to_a_call_goes_into_the_next_prompt(client) -> None:
    settings = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}
    message = ask(client, **settings).choices[0].message
    call = message.tool_calls[0]
    more = [*MESSAGES, message.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    before = ask(client, tools=TOOLS, max_tokens=1).usage.prompt_tokens
    found = ask(client, messages=more, tools=TOOLS, max_tokens=5)
    assert found.usage.prompt_tokens > before and found.choices[0].message.content is not None


def test_tools_that_may_be_called_and_are_not(client) -> None:
    choice = ask(client, tools=TOOLS, max_tokens=8, temperature=0).choices[0]
    assert choice.message.tool_calls is None and choice.message.content and choice.finish_reason == "length"


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools[0].function.name"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format.json_schema.schema"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_what_is_wrong_is_refused_by_its_place(client, settings, param) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, **settings)
    assert refused.value.param == param


def test_a_template_without_tools_refuses_them(server: Running) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    with client, pytest.raises(openai.BadRequestError, match="no place for tools"):
        ask(client, tools=TOOLS)


def test_where_one_call_is_allowed_its_end_is_the_end_of_the_answer(hermes: Running) -> None:
    body = {"messages": MESSAGES, "tools": TOOLS}
    assert read_chat({**body, "parallel_tool_calls": False}, hermes.app.served).job.params["stop"] == ["</tool_call>"]
    assert "stop" not in read_chat(body, hermes.app.served).job.params


def test_an_answer_that_may_be_a_call_has_no_other_format(client) -> None:
    with pytest.raises(openai.BadRequestError, match="give tool_choice none") as refused:
        ask(client, tools=TOOLS, response_format={"type": "json_object"})
    assert refused.value.param == "response_format"
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    content = ask(client, tools=TOOLS, tool_choice="none", response_format=wanted).choices[0].message.content
    jsonschema.validate(json.loads(content), PERSON)
