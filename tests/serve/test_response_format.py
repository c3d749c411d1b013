"""What an answer must look like: OpenAI's `response_format` becomes the sampling parameter `constraint`, whole or not at all."""

from __future__ import annotations

import pytest

from brigade.checkpoint.load import EMBEDDED
from brigade.engine.constraint.given import checked_constraint
from brigade.serve.chat import read_chat
from brigade.serve.completions import read_completion
from brigade.serve.errors import ApiError
from brigade.serve.response_format import constraint_of
from brigade.serve.served import Served
from brigade.tokenizer import Tokenizer

SERVED = Served(["mini"], "none", 1024, 4096, Tokenizer.from_folder(EMBEDDED))
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}}


def described(**more):
    return {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, **more}}


@pytest.mark.parametrize(
    ("given", "constraint"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"json_object": True}),
        (described(), {"json_schema": SCHEMA}),
        (described(strict=True, description="a person"), {"json_schema": SCHEMA}),
        (described(strict=False), {"json_schema": SCHEMA}),
        ({"type": "json_schema", "json_schema": {"name": "any", "schema": True}}, {"json_schema": True}),
    ],
    ids=["nothing", "text", "json object", "schema", "strict schema", "schema that is not strict", "any json"],
)
def test_a_format_becomes_a_constraint(given, constraint) -> None:
    assert constraint_of(given, None) == constraint


def test_a_constraint_of_our_own_goes_through_as_it_is() -> None:
    assert constraint_of(None, {"regex": "[a-z]+"}) == {"regex": "[a-z]+"}
    assert constraint_of({"type": "text"}, {"choice": ["yes", "no"]}) == {"choice": ["yes", "no"]}


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        ({}, "response_format.type", "json_object and json_schema are known"),
        ({"type": "xml"}, "response_format.type", '"xml"'),
        ({"type": ["text"]}, "response_format.type", "known"),
        ({"type": "text", "schema": {}}, "response_format.schema", "not a field"),
        ({"type": "json_object", "json_schema": {}}, "response_format.json_schema", "not a field"),
        ({"type": "json_schema"}, "response_format.json_schema", "missing"),
        ({"type": "json_schema", "json_schema": SCHEMA}, "response_format.json_schema.type", "not a field"),
        ({"type": "json_schema", "json_schema": {"name": "a"}}, "response_format.json_schema.schema", "missing"),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": "{}"}}, "response_format.json_schema.schema", "missing"),
    ],
    ids=str,
)
def test_what_is_no_format_is_refused_by_its_path(given, param, words) -> None:
    with pytest.raises(ApiError, match=words) as error:
        constraint_of(given, None)
    assert error.value.param == param and error.value.status == 400


def test_a_format_and_a_constraint_exclude_each_other() -> None:
    with pytest.raises(ApiError, match="give one") as error:
        constraint_of({"type": "json_object"}, {"regex": "a"})
    assert error.value.param == "constraint"


def asked(kind: str, **more) -> dict:
    """The sampling parameters of a request to either API."""
    if kind == "completion":
        return dict(read_completion({"prompt": "a", **more}, SERVED).job.params)
    return dict(read_chat({"messages": [{"role": "user", "content": "a"}], **more}, SERVED).job.params)


@pytest.mark.parametrize("kind", ["completion", "chat"])
def test_both_apis_hand_it_to_the_sampling_parameters(kind) -> None:
    assert checked_constraint(asked(kind, response_format=described())["constraint"]) == checked_constraint({"json_schema": SCHEMA})
    assert asked(kind, constraint={"regex": "a"})["constraint"] == {"regex": "a"}
    assert "constraint" not in asked(kind, response_format={"type": "text"})
