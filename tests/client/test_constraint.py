"""A constrained request through a coordinator says what the model says of it alone, also where its replica goes away."""

from __future__ import annotations

import json

import pytest

from brigade import LLM, SamplingParams
from brigade.errors import RequestError
from tests.client.here import Here

DEEP: dict = {"type": "boolean"}  # a schema of more levels than a message may have
for _ in range(6):
    DEEP = {"type": "object", "properties": {"a": DEEP}, "required": ["a"], "additionalProperties": False}
ASKED = {"max_tokens": 400, "temperature": 0.9, "seed": 3, "constraint": {"json_schema": DEEP}}


def test_a_schema_travels_however_deep_it_is(llm: LLM, here: Here) -> None:
    here.replica(llm, "one")
    expected = llm.generate(["x ="], SamplingParams(**ASKED))[0]
    assert expected.finish_reason == "stop" and json.loads(expected.text)
    with here.client() as client:
        for params in (ASKED, SamplingParams(**ASKED)):
            (found,) = client.generate(["x ="], params)
            assert (found.token_ids, found.text, found.finish_reason) == (expected.token_ids, expected.text, "stop")


def test_it_goes_on_on_another_replica(llm: LLM, here: Here) -> None:
    first = here.replica(llm, "one")
    expected = llm.generate(["x ="], SamplingParams(**ASKED))[0]
    with here.client() as client:
        stream, tokens = iter(client.stream("x =", ASKED)), []
        for delta in stream:
            tokens += delta.token_ids
            if len(tokens) == 3:
                here.replica(llm, "two")
                here.leave(first)
        assert tokens == expected.token_ids


def test_a_grammar_that_cannot_be_compiled_is_refused_by_the_replica(llm: LLM, here: Here) -> None:
    here.replica(llm, "one")
    with here.client() as client:
        (output,) = client.generate(["x ="], {"constraint": {"regex": "["}})
        assert output.finish_reason == "error" and "constraint regex cannot be compiled" in output.error
        with pytest.raises(RequestError, match="the keyword 'not' at #"):  # what needs no model is refused at once
            client.generate(["x ="], {"constraint": {"json_schema": {"not": {}}}})
