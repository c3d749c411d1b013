"""The log has one line for each request, by which it is found again."""

from __future__ import annotations

import io
import json
import re
import sys

import pytest

from brigade import LLM
from brigade.serve.app import json_line
from tests.serve.raw import Wire, ask, becomes, request
from tests.serve.servers import Running, serving

BODY = {"prompt": [5, 6, 7], "max_tokens": 3, "ignore_eos": True}


@pytest.fixture
def quiet(llm: LLM):
    with serving(llm) as made:
        yield made


def test_one_line_a_request(quiet: Running) -> None:
    for path, body in (("/v1/completions", BODY), ("/v1/completions", BODY | {"stream": True}), ("/health", None), ("/no", None)):
        ask(quiet.port, path, body)
    assert becomes(lambda: len(quiet.lines) == 4)
    whole, stream, health, nothing = quiet.lines
    assert whole["path"] == "/v1/completions" and whole["method"] == "POST" and whole["client"] == "127.0.0.1"
    for line in (whole, stream):
        assert line["status"] == 200 and line["model"] == "mini" and line["finish"] == "length"
        assert (line["prompt_tokens"], line["tokens"]) == (3, 3) and 0 < line["first_token"] <= line["seconds"] < 30
    assert (whole["stream"], stream["stream"]) == (False, True)
    assert health["status"] == 200 and not {"tokens", "model", "error", "key"} & set(health)
    assert nothing["status"] == 404 and "not_found" in nothing["error"]


def test_several_answers_have_counts_of_their_reasons(quiet: Running) -> None:
    ask(quiet.port, "/v1/completions", BODY | {"n": 16})
    assert becomes(lambda: len(quiet.lines) == 1) and quiet.lines[0]["finish"] == "length:16"


def test_what_was_asked_and_answered_is_not_in_it(quiet: Running) -> None:
    ask(quiet.port, "/v1/completions", {"prompt": "a secret word", "max_tokens": 3, "user": "somebody"}, cookie="crumbs")
    assert becomes(lambda: len(quiet.lines) == 1)
    assert not re.search("secret|somebody|crumbs", json.dumps(quiet.lines))


def test_what_a_client_did_wrong_is_said_in_one_line_that_is_not_endless(quiet: Running) -> None:
    secret = {"prompt": "a secret word"}
    for wrong in ({"temperature": 700}, {"tempera\nture\x1b[2J\u2028": 1}, {"stop": ["x", "y" * 5000, 5]}):
        assert ask(quiet.port, "/v1/completions", secret | wrong).status == 400
    assert becomes(lambda: len(quiet.lines) == 3)
    told = [line["error"] for line in quiet.lines]
    assert told[0] == "refused: temperature is 700; it must be a number from 0 to 100"
    assert told[1].startswith("unknown_parameter (tempera ture")
    assert told[2].startswith("invalid_type: stop[2] is 5; it must be a text")
    assert all(one.isprintable() and len(one) < 650 and "secret" not in one for one in told)


def test_a_field_that_the_message_does_not_name_stands_before_it(quiet: Running) -> None:
    ask(quiet.port, "/v1/completions", {"prompt": [9999]})
    assert becomes(lambda: len(quiet.lines) == 1)
    assert quiet.lines[0]["error"].startswith("refused (prompt): token id 9999 is outside the vocabulary")


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/responses", "/v1/images/generations", "/v1/messages", "/completion"])
def test_a_well_known_address_that_is_not_there_is_said_to_be_none(quiet: Running, path: str) -> None:
    error = ask(quiet.port, path, {}).json["error"]
    assert error["code"] == "not_found" and f"{path}, of " in error["message"] and "/v1/completions" in error["message"]
    assert "there is nothing at /v1/other" in ask(quiet.port, "/v1/other", {}).json["error"]["message"]


def test_the_id_of_a_request_goes_in_and_out(quiet: Running) -> None:
    for path, body in (
        ("/v1/completions", BODY),
        ("/v1/completions", BODY | {"stream": True}),
        ("/v1/completions", {}),
        ("/no", None),
    ):
        assert ask(quiet.port, path, body, x_request_id="trace:7.a_b-C").headers["x-request-id"] == "trace:7.a_b-C"
    assert becomes(lambda: len(quiet.lines) == 4)
    assert {line["request"] for line in quiet.lines} == {"trace:7.a_b-C"}


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a\tb", "\xe9", 'a"b', "a,b", "a;b"])
def test_an_id_that_is_none_is_replaced(quiet: Running, given: str) -> None:
    found = ask(quiet.port, "/version", x_request_id=given).headers["x-request-id"]
    assert re.fullmatch("req-[0-9a-f]{32}", found) and becomes(lambda: [line["request"] for line in quiet.lines] == [found])


def test_a_client_that_leaves_has_a_line_too(quiet: Running) -> None:
    one = Wire(quiet.port)
    one.send(request("/v1/completions", BODY | {"max_tokens": 1000, "stream": True}, x_request_id="gone"))
    one.until(b"data: ")
    one.close()
    assert becomes(lambda: len(quiet.lines) == 1)
    assert quiet.lines[0]["request"] == "gone" and quiet.lines[0]["tokens"] < 1000 and "finish" not in quiet.lines[0]


def test_a_line_is_a_line_whatever_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    json_line({"path": "/a\nb\r\x00é"})
    assert out.getvalue().count("\n") == 1 and json.loads(out.getvalue())["path"] == "/a\nb\r\x00é"


def test_a_log_that_nobody_reads_any_more_stops_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Closed())
    json_line({"status": 200})
