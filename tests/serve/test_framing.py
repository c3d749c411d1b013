"""What HTTP/1.1 allows and clients do seldom: many requests at once, upgrades that are not granted, expectations, HEAD."""

from __future__ import annotations

import json
import select
import time

import pytest

from brigade import LLM
from brigade.serve.protocol import MOST_BEHIND
from tests.serve.raw import Wire, ask, becomes, is_error, request, wire
from tests.serve.servers import Running

BODY = {"prompt": "def f(", "max_tokens": 4, "seed": 5, "return_token_ids": True}
H2C = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2_settings": "AAMAAABkAAQAAP__"}


def ids(reply) -> list[int]:
    assert reply.status == 200, reply
    return reply.json["choices"][0]["token_ids"]


def test_many_requests_in_one_piece_are_answered_in_their_order(server: Running) -> None:
    alone = [ids(ask(server.port, "/v1/completions", BODY | {"seed": seed})) for seed in range(40)]
    with wire(server.port) as one:
        one.send(b"".join(request("/v1/completions", BODY | {"seed": seed}) for seed in range(40)))
        assert [ids(one.reply()) for _ in range(40)] == alone


@pytest.mark.parametrize("framing", ["content-length", "chunked", "in two pieces"])
def test_a_request_for_an_upgrade_is_answered_as_an_ordinary_one(server: Running, framing: str) -> None:
    """As Java's client sends them. Nothing in the body is taken for a request of its own."""
    alone = ids(ask(server.port, "/v1/completions", BODY))
    data = json.dumps(BODY).encode() + b"\r\n\r\n"
    if framing == "chunked":
        head = request("/v1/completions", None, "POST", transfer_encoding="chunked", **H2C)
        sent = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)
    else:
        sent = request("/v1/completions", data, **H2C)
    with wire(server.port) as one:
        for _ in range(2):
            cut = sent.index(b"\r\n\r\n") + 9 if framing == "in two pieces" else len(sent)
            one.send(sent[:cut])
            one.send(sent[cut:])
            assert ids(one.reply()) == alone
        one.send(request("/v1/models", **H2C) + request("/version"))
        assert one.reply().json["object"] == "list" and "version" in one.reply().json


def test_a_body_is_not_taken_for_a_request(server: Running) -> None:
    with wire(server.port) as one:
        one.send(request("/tokenize", request("/version") * 3, **H2C) + request("/v1/models"))
        assert is_error(one.reply().json) and one.reply().json["object"] == "list"


def test_a_client_that_waits_for_leave_to_send_its_body_gets_it(server: Running) -> None:
    data = json.dumps(BODY).encode()
    with wire(server.port) as one:
        one.send(request("/v1/completions", None, "POST", content_length=str(len(data)), expect="100-continue"))
        assert one.reply().status == 100
        one.send(data)
        assert len(ids(one.reply())) == 4


def test_a_head_is_answered_without_a_body(server: Running) -> None:
    with wire(server.port) as one:
        one.send(request("/v1/models", method="HEAD"))
        assert one.reply(heads=True).status == 200 and not one.data
        one.send(request("/v1/models"))
        assert one.reply().json["object"] == "list"


def test_all_of_several_requests_end_when_their_client_goes_away(server: Running, llm: LLM) -> None:
    """The second one waits for the first, and is the one that the HTTP library tells."""
    long = {"prompt": "a", "max_tokens": 1000, "ignore_eos": True, "stream": True, "n": 16}
    one = wire(server.port)
    with one as made:
        made.send(request("/v1/completions", long) + request("/version"))
        made.until(b"data: ")
        assert server.app.desk.open == 1
    assert becomes(lambda: server.app.desk.open == 0, 0.5) and llm.thread.wait_idle(2)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("streams", [True, False])
def test_a_client_with_a_request_behind_its_first_frees_its_blocks_as_others(
    server: Running, llm: LLM, how: str, streams: bool
) -> None:
    """Also where nothing is written that would tell: the answer comes whole."""
    long = {"prompt": "a", "max_tokens": 1000, "ignore_eos": True, "stream": streams, "n": 4}
    one = Wire(server.port)
    one.send(request("/v1/completions", long))
    assert becomes(lambda: llm.engine.num_running == 4)
    one.send(request("/v1/completions", BODY) + request("/version") * 3)
    time.sleep(0.05)
    getattr(one, how)()
    gone = time.monotonic()
    assert becomes(lambda: llm.engine.num_running == 0 and llm.engine.pool.num_free == llm.engine.pool.num_blocks, 5)
    assert time.monotonic() - gone < 0.5 and server.app.desk.open == 0


def test_a_client_that_sends_without_end_is_read_only_so_far(server: Running) -> None:
    """Its requests wait in its own system, and each of them is answered at last."""
    many, sent = request("/version", a="b" * 1000) * 4000, 0
    with wire(server.port) as one:
        one.send(request("/v1/completions", BODY | {"max_tokens": 300, "ignore_eos": True}))
        one.socket.setblocking(False)
        assert becomes(lambda: len(server.server.server_state.connections) == 1)  # it is accepted, and those before it are gone
        while True:
            try:
                sent += one.socket.send(many[sent : sent + 65536])
            except BlockingIOError:
                time.sleep(0.02)
            (held,) = server.server.server_state.connections
            assert held._behind <= 2 * MOST_BEHIND and len(held.pipeline) <= 2 * MOST_BEHIND // 1000
            if one.socket in select.select([one.socket], [], [], 0)[0]:
                break
        one.socket.settimeout(20)
        assert len(ids(one.reply())) == 300
        one.send(many[sent : len(many) // 4000 * (sent // (len(many) // 4000) + 1)])  # the rest of the one that is begun
        for _ in range(sent // (len(many) // 4000)):
            assert one.reply().status == 200
