"""A refusal names the field of the request, says in JSON's words what is wrong, and what may be done about it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from brigade import LLM
from brigade.client.conversation import Conversation
from brigade.coordinator.messages import Refused
from brigade.engine.outputs import Delta
from brigade.errors import RequestError
from brigade.serve.chat import ChatBody
from brigade.serve.completions import CompletionBody
from brigade.serve.errors import FIELDS, as_api_error, request_failed
from tests.serve.raw import ask
from tests.serve.servers import Running, serving

CHAT = {"messages": [{"role": "user", "content": "a"}]}
SCHEMA = {"type": "object", "not": {}}
FORMAT = {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}}
AT = {"completion": "/v1/completions", "chat": "/v1/chat/completions"}
IN_SCHEMA = "response_format.json_schema.schema"


def refusal(server: Running, path: str, body: dict[str, Any]) -> dict[str, Any]:
    reply = ask(server.port, path, body)
    assert reply.status == 400, reply
    return reply.json["error"]


@pytest.mark.parametrize(
    ("kind", "body", "param", "words"),
    [
        ("completion", {"prompt": ""}, "prompt", "the prompt has 0 tokens"),
        ("completion", {"prompt": [9999]}, "prompt", "token id 9999 is outside"),
        ("completion", {"prompt": ["a", [1]]}, "prompt", "prompt is neither a text"),
        ("completion", {"prompt": ["a", "b"], "n": 2, "top_p": 0}, "top_p", "top_p is 0"),
        ("completion", {"prompt": [5] * 1024}, "prompt", "max_tokens 16 exceed the limit of 1024 positions; shorten the prompt"),
        ("chat", {"messages": [{"role": "user", "content": "ab " * 1500}]}, "messages", "positions; shorten the prompt"),
        ("completion", {"prompt": "a", "max_tokens": 5000}, "prompt", "max_tokens 5000 exceed the limit"),
        ("completion", {"prompt": "a", "max_tokens": 0}, "max_tokens", "max_tokens is 0; it must be 1 or more, or 0 beside"),
        ("completion", {"prompt": "a", "constraint": {}}, "constraint", "constraint has 0 kinds; it must be an object with"),
        ("completion", {"prompt": "a", "constraint": {"json_object": False}}, "constraint", "constraint json_object is false;"),
        ("completion", {"prompt": "a", "constraint": {"regex": None}}, "constraint", "constraint regex is null;"),
        ("completion", {"prompt": "a", "constraint": {"choice": []}}, "constraint", "constraint choice is []; it must be a list"),
        ("completion", {"prompt": "a", "constraint": {"regex": "(("}}, "constraint", "constraint regex cannot be compiled"),
        ("completion", {"prompt": "a", "constraint": {"regex": ""}, "n": 2}, "constraint", 'constraint regex is "";'),
        ("completion", {"prompt": "a", **FORMAT}, IN_SCHEMA, f"{IN_SCHEMA} has the keyword 'not'"),
        ("completion", {"prompt": "a", "extra": {"mine": 1}}, "extra.mine", "registers it: --import MODULE"),
        ("completion", {"prompt": "a", "n": 100}, "n", "100 requests came at once (n of all prompts together)"),
        ("completion", {"prompt": "a", "stop": [""]}, "stop", 'stop is [""]; it must be'),
        ("completion", {"prompt": "a", "stop_token_ids": [4096]}, "stop_token_ids", "go from 0 to 4095"),
        ("chat", {**CHAT, "max_tokens": 5000}, "messages", "max_tokens 5000 exceed the limit"),
        ("chat", {**CHAT, "max_completion_tokens": 5000}, "messages", "lower max_completion_tokens"),
        ("chat", {**CHAT, "max_completion_tokens": 0}, "max_completion_tokens", "max_completion_tokens is 0; it must be"),
        ("chat", {**CHAT, "max_completion_tokens": -1}, "max_completion_tokens", "max_completion_tokens is -1; it must be"),
        ("chat", {**CHAT, "max_completion_tokens": 2, "min_tokens": 3}, "min_tokens", "above max_completion_tokens 2"),
        ("chat", {**CHAT, "constraint": {"choice": 5}}, "constraint", "constraint choice is 5;"),
        ("chat", {**CHAT, **FORMAT}, IN_SCHEMA, f"{IN_SCHEMA} has the keyword 'not'"),
        ("chat", {**CHAT, "stream": True, **FORMAT}, IN_SCHEMA, f"{IN_SCHEMA} has the keyword 'not'"),
        ("chat", {"messages": [{"role": "nobody"}]}, "messages[0].role", "it must be one of"),
        ("chat", {**CHAT, "chat_template_kwargs": {"a": 1}}, "chat_template_kwargs.a", "(it reads none); drop it"),
        ("chat", {**CHAT, "reasoning_effort": "low"}, "reasoning_effort", "drop it"),
    ],
    ids=lambda one: None if isinstance(one, dict) else str(one)[:40],
)
def test_the_field_is_that_of_the_request(llm: LLM, short_queue: Running, kind: str, body, param, words) -> None:
    error = refusal(short_queue, AT[kind], body)
    assert error["param"] == param and words in error["message"], error
    assert "max_tokens" in body or "lower max_tokens" not in error["message"]
    assert not any(word in error["message"] for word in ("None", "True", "False", "tuple", "mapping"))


@pytest.fixture
def short_queue(llm: LLM, monkeypatch: pytest.MonkeyPatch):
    """A server whose queue is shorter than the most answers of a request."""
    monkeypatch.setattr(llm.engine, "limits", replace(llm.engine.limits, max_waiting=20))
    with serving(llm) as made:
        yield made


def test_a_conversation_of_tokenize_is_refused_by_its_place(server: Running) -> None:
    error = refusal(server, "/tokenize", {"messages": [{"role": "user", "content": 5}]})
    assert error["param"] == "messages[0].content"


@pytest.mark.parametrize("kind", ["completion", "chat"])
def test_a_grammar_of_llama_cpp_is_recognised(server: Running, kind: str) -> None:
    least = {"prompt": "a"} if kind == "completion" else CHAT
    for text in ('root ::= "yes" | "no"', '# a remark\nroot   ::= item+\nitem ::= "a"', "root::=[a-z]"):
        error = refusal(server, AT[kind], least | {"constraint": {"grammar": text}})
        assert error["param"] == "constraint" and 'such as start: "yes" | "no"' in error["message"]
        assert "GBNF" in error["message"] and "Lark" in error["message"]


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("too long", 400, "context_length_exceeded"),
        ("crowded", 429, "rate_limit_exceeded"),
        ("busy", 503, "busy"),
        (None, 400, None),
    ],
)
def test_a_refusal_has_its_kind_and_its_text_decides_nothing(kind, status, code) -> None:
    found = as_api_error(RequestError("7 requests wait and 2 are draining; they exceed the limit of 5 positions", kind=kind))
    assert (found.status, found.code) == (status, code)


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("no replica", 503, "no_replica"),
        ("replaced", 503, "no_replica"),
        ("stopped", 503, "engine_stopped"),
        (None, 500, "request_failed"),
    ],
)
def test_an_answer_that_breaks_off_has_its_kind_and_its_text_decides_nothing(kind, status, code) -> None:
    error = "there was no replica that could read these logits"
    found = request_failed(Delta("c-1", 0, "", [], None, "error", error, error_kind=kind))
    assert (found.status, found.code, found.message) == (status, code, error)
    assert (found.retry_after is None) == (status == 500)


def test_a_coordinators_refusal_keeps_its_kind() -> None:
    heard: list[Any] = []

    class One:
        reader = staticmethod(lambda said: heard.append(said) or True)

    made = Conversation.__new__(Conversation)
    made._open = {1: One()}  # type: ignore[dict-item]
    made._refuse(Refused(1, "7 requests are open", "crowded"))
    assert heard[0].kind == "crowded" and as_api_error(heard[0]).status == 429


def test_what_a_client_quotes_is_not_renamed() -> None:
    found = as_api_error(RequestError('stop is ["max_tokens"]; not max_tokens'), {"max_tokens": "max_completion_tokens"})
    assert found.message == 'stop is ["max_tokens"]; not max_completion_tokens' and found.param == "stop"


def test_every_field_that_the_engine_may_refuse_can_be_named() -> None:
    ours = {"model", "stream", "stream_options", "top_logprobs", "suffix", "best_of"}
    ours |= {"return_token_ids", "return_tokens_as_token_ids"}
    named = {field.name for body in (CompletionBody, ChatBody) for field in msgspec.structs.fields(body)}
    assert named - ours - {"prompt"} <= FIELDS


@pytest.mark.parametrize("path", ["/v1/completions", "/tokenize"])
def test_a_compressed_body_is_refused_by_its_header(server: Running, path: str) -> None:
    reply = ask(server.port, path, {"prompt": "a", "max_tokens": 1}, content_encoding="gzip")
    assert reply.status == 415 and reply.json["error"]["code"] == "unsupported_encoding"
    assert reply.json["error"]["message"].startswith("content-encoding is gzip, which is not read; send the body uncompressed")
