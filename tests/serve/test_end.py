"""A server that can compute nothing any more ends by itself; how many replicas are there, in words."""

from __future__ import annotations

import asyncio

import pytest

from brigade import LLM, AsyncLLM
from brigade.serve.app import App
from brigade.serve.desk import Desk
from brigade.serve.health import EngineHealth, how_many
from brigade.serve.server import BACKLOG, Server, bind
from tests.serve.raw import is_error, request, wire
from tests.serve.servers import served_of, serving


def test_a_server_ends_once_nothing_can_be_computed(llm: LLM) -> None:
    app, looks = App(served_of(llm), Desk(AsyncLLM(llm)), EngineHealth(llm)), iter([False, False, True])
    listener = bind("127.0.0.1", 0)
    listener.listen(BACKLOG)
    server = Server(app, is_over=lambda: next(looks))
    asyncio.run(asyncio.wait_for(server._serve([listener]), 10))
    assert next(looks, None) is None, "it looked until it was so"


def test_who_is_cut_off_because_nothing_can_be_computed_is_told_so(llm: LLM) -> None:
    with serving(llm) as server, wire(server.port) as stream, wire(server.port) as other:
        body = {"prompt": "def f(", "max_tokens": 1000, "ignore_eos": True, "stream": True, "n": 16}
        stream.send(request("/v1/completions", body))
        stream.until(b"data: ")
        other.send(request("/version"))
        assert other.reply().status == 200
        server.server._is_over = lambda: True
        *_, error, done = stream.reply().events
        assert is_error(error) and error["error"]["code"] == "draining" and done == "[DONE]" and stream.is_closed()
        assert server.app.desk.is_draining, "a connection that was open brings no new request"


@pytest.mark.parametrize(
    ("ready", "wanted", "words"),
    [
        (0, 2, "none of 2 replicas is ready: requests wait until one is"),
        (1, 2, "1 of 2 replicas is ready, the other one is loading"),
        (1, 4, "1 of 4 replicas is ready, the other 3 are loading"),
        (2, 3, "2 of 3 replicas are ready, the other one is loading"),
        (2, 2, "all 2 replicas are ready"),
    ],
)
def test_how_many_replicas_are_ready_in_words(ready: int, wanted: int, words: str) -> None:
    assert how_many(ready, wanted) == words
