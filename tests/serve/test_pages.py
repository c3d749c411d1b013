"""What is asked with GET: whether the server works, what it serves, and how it is asked."""

from __future__ import annotations

import time

import httpx
import pytest

import brigade
from brigade import LLM
from brigade.serve.app import JOBS, QUESTIONS
from brigade.serve.openapi import BODIES, PAGES
from tests.serve.raw import becomes
from tests.serve.servers import Running, serving


@pytest.fixture
def get(server: Running):
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client.get


def test_a_server_whose_engine_steps_is_healthy_and_ready(get) -> None:
    for path in ("/health", "/ready"):
        answer = get(path)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_a_server_that_ends_is_healthy_and_no_longer_ready(llm: LLM) -> None:
    with serving(llm) as server, httpx.Client(base_url=server.url) as client:
        server.app.desk.is_draining = True
        assert client.get("/health").status_code == 200
        for answer in (client.get("/ready"), client.post("/v1/completions", json={"prompt": "a"})):
            assert answer.status_code == 503 and answer.json()["error"]["code"] == "draining"
            assert int(answer.headers["retry-after"]) > 0


def test_the_version(get) -> None:
    assert get("/version").json() == {"version": brigade.__version__}


def test_the_models_say_what_they_can_take_and_what_they_are(get, llm: LLM) -> None:
    found = get("/v1/models").json()
    assert found["object"] == "list" and [model["id"] for model in found["data"]] == ["mini", "other"]
    for model in found["data"]:
        assert model == get(f"/v1/models/{model['id']}").json()
        assert (model["object"], model["owned_by"], model["root"], model["max_model_len"]) == ("model", "brigade", "mini", 1024)
        assert model["system_fingerprint"] == f"{llm.numerics_id}-{llm.fingerprint}"


def test_a_name_with_a_slash_in_it_is_a_name(llm: LLM) -> None:
    with serving(llm) as server, httpx.Client(base_url=server.url) as client:
        served = server.app.served
        object.__setattr__(served, "names", ("org/name",))
        object.__setattr__(served, "model", "mini")
        assert client.get("/v1/models/org/name").json() == client.get("/v1/models/org%2Fname").json() == served_model(client)


def served_model(client: httpx.Client) -> dict:
    (model,) = client.get("/v1/models").json()["data"]
    assert model["id"] == "org/name" and model["root"] == "mini"  # the model itself, whatever it is called
    return model


def test_the_document_of_the_api_lists_every_address(get) -> None:
    found = get("/openapi.json").json()
    assert set(found["paths"]) == set(JOBS) | set(QUESTIONS) | set(PAGES) and set(BODIES) == set(JOBS) | set(QUESTIONS)
    assert found["info"]["version"] == brigade.__version__
    for path in PAGES:
        assert get(path).status_code == 200


@pytest.mark.parametrize("path", [*PAGES, "/openapi.json"])
def test_a_page_is_asked_with_get_or_head(server: Running, path) -> None:
    head, post = (httpx.request(method, server.url + path) for method in ("HEAD", "POST"))
    assert head.status_code == 200 and head.content == b""
    assert post.status_code == 405 and post.json()["error"]["code"] == "method_not_allowed"
    assert post.headers["allow"] == "GET, HEAD"
    get = httpx.get(server.url + "/v1/completions")
    assert get.status_code == 405 and get.headers["allow"] == "POST"


def test_an_address_that_is_none_is_said_to_be_none(get) -> None:
    answer = get("/v2/anything")
    assert answer.status_code == 404 and "docs/serve.md" in answer.json()["error"]["message"]


def test_an_answer_brings_the_id_of_its_request(server: Running) -> None:
    given = httpx.get(f"{server.url}/version", headers={"x-request-id": "mine-1"})
    made = httpx.get(f"{server.url}/version", headers={"x-request-id": "not fit\tfor a log"})
    assert given.headers["x-request-id"] == "mine-1" and made.headers["x-request-id"].startswith("req-")
    wanted = {"mine-1", made.headers["x-request-id"]}
    assert becomes(lambda: wanted <= {line["request"] for line in list(server.lines)})  # a line is written after the answer


def test_a_client_that_goes_away_in_the_middle_is_counted_and_noted(llm: LLM) -> None:
    with serving(llm) as server:
        body = {"prompt": "a", "max_tokens": 900, "stream": True, "ignore_eos": True}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body) as answer:
            next(answer.iter_lines())
        until = time.monotonic() + 10
        while not server.lines and time.monotonic() < until:
            time.sleep(0.02)
        (line,) = server.lines
        assert line["gone"] and line["status"] == 200 and 0 < line["tokens"] < 900
        assert 'brigade:request_cancelled_total{model_name="mini"} 1.0' in httpx.get(f"{server.url}/metrics").text
