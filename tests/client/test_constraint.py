"""A constrained request through a coordinator says what the model says of it alone, also where its replica goes away."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from brigade import LLM, SamplingParams
from brigade.engine.constraint import grammars
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


def test_a_stream_goes_on_while_its_replica_compiles_anothers_constraint(llm: LLM, here: Here, monkeypatch) -> None:
    """The compiler is not done before the stream's end."""
    here.replica(llm, "one")
    compiling, go_on, compile_ = threading.Event(), threading.Event(), grammars.LLMatcher

    def slow(*given, **named):
        compiling.set()
        time.sleep(0.5)
        assert go_on.wait(30)
        return compile_(*given, **named)

    slow.grammar_from_lark = compile_.grammar_from_lark
    expected = llm.generate(["x ="], SamplingParams(**ASKED))[0]
    monkeypatch.setattr(grammars, "LLMatcher", slow)
    with here.client() as client, ThreadPoolExecutor(1) as pool:
        held = pool.submit(client.generate, ["x ="], ASKED)
        try:
            assert compiling.wait(10)
            tokens = [i for delta in client.stream("y =", {"max_tokens": 40, "ignore_eos": True}) for i in delta.token_ids]
            assert len(tokens) == 40 and not held.done()
        finally:
            go_on.set()
        assert held.result(30)[0].token_ids == expected.token_ids
