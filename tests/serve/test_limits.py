"""Limits: whoever is slow, long or many is told so or given up, and everybody else goes on."""

from __future__ import annotations

import json
import resource
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from brigade import LLM, SamplingParams
from brigade.errors import ConfigError
from brigade.serve import exchange
from brigade.serve.limits import Limits
from tests.serve.raw import Reply, Wire, ask, becomes, is_error, request, wire
from tests.serve.servers import Running, serving

LONG = {"prompt": "def f(", "max_tokens": 1000, "ignore_eos": True, "stream": True}
SHORT = {"prompt": "def f(", "max_tokens": 4, "seed": 5}


@contextmanager
def limited(llm: LLM, **limits: Any) -> Iterator[Running]:
    with serving(llm, limits=Limits(**limits)) as made:
        yield made
        assert becomes(lambda: made.app.desk.open == 0) and llm.thread.wait_idle(5)
        assert llm.engine.pool.num_free == llm.engine.pool.num_blocks


def refusal(reply: Reply, status: int) -> dict[str, Any]:
    assert reply.status == status and is_error(reply.json), reply
    return reply.json["error"]


def test_headers_that_come_slowly_are_waited_for_only_so_long(llm: LLM) -> None:
    with limited(llm, header_seconds=0.4) as server:
        with wire(server.port) as silent, wire(server.port) as slow:
            begun = time.monotonic()
            for byte in request("/health")[:8]:  # each byte within the time, all of them not
                slow.send(bytes([byte]))
                time.sleep(0.06)
            for one in (slow, silent):
                assert refusal(one.reply(), 408)["code"] == "timeout" and one.is_closed()
            assert time.monotonic() - begun < 2
        assert ask(server.port, "/health").status == 200


def test_headers_are_not_late_while_the_server_itself_does_not_read_them(llm: LLM) -> None:
    """The first answer takes longer than headers may; meanwhile nothing is read behind the second request."""
    with limited(llm, header_seconds=0.15) as server, wire(server.port) as one:
        begun, third = time.monotonic(), request("/v1/models")
        one.send(request("/v1/completions", LONG | {"n": 2, "max_tokens": 600}))
        one.until(b"data: ")
        one.send(request("/version") + third[:9])
        time.sleep(0.05)
        one.send(third[9:])
        assert one.reply().events[-1] == "[DONE]" and time.monotonic() - begun > 0.3
        assert "version" in one.reply().json
        assert one.reply().json["object"] == "list"


def test_empty_lines_hold_no_connection(llm: LLM) -> None:
    """They are allowed before a request, and end the time for which an idle connection is kept."""
    with limited(llm, header_seconds=0.4, keep_alive_seconds=30) as server, wire(server.port) as one:
        one.send(request("/health"))
        assert one.reply().status == 200
        one.send(b"\r\n")
        assert one.is_closed(3)


def test_a_body_that_comes_slowly_is_waited_for_only_so_long(llm: LLM) -> None:
    with limited(llm, body_seconds=0.4) as server, wire(server.port) as one:
        data = request("/v1/completions", SHORT)
        one.send(data[:-5])
        assert refusal(one.reply(), 408)["code"] == "timeout" and one.is_closed()


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
def test_a_body_that_is_too_long_is_not_read(llm: LLM, framing: str) -> None:
    with limited(llm, body_bytes=1000) as server:
        with wire(server.port) as one:
            if framing == "content-length":
                one.send(request("/v1/completions", None, "POST", content_length="1001"))  # and not one byte of it
            else:
                one.send(request("/v1/completions", None, "POST", transfer_encoding="chunked") + b"3e9\r\n" + b"x" * 1001)
            assert refusal(one.reply(), 413)["code"] == "too_large" and one.is_closed()
        body = b'{"prompt": "a", "max_tokens": 1' + b" " * (1000 - 32) + b"}"
        assert len(body) == 1000 and ask(server.port, "/v1/completions", body).status == 200


def test_who_sends_too_much_hears_why(llm: LLM) -> None:
    """The connection is not reset while its client still sends, as most clients do before they read."""
    with limited(llm, body_bytes=1000) as server:
        for _ in range(3):
            asked = urllib.request.Request(server.url + "/v1/completions", data=b" " * (8 << 20))
            with pytest.raises(urllib.error.HTTPError) as error:
                urllib.request.urlopen(asked, timeout=20)
            assert error.value.code == 413 and json.loads(error.value.read())["error"]["code"] == "too_large"
        assert ask(server.port, "/v1/completions", SHORT).status == 200


def test_who_sends_too_much_for_ever_is_left(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "LINGER", 0.5)
    with limited(llm, body_bytes=1000) as server, wire(server.port) as one:
        one.send(request("/v1/completions", None, "POST", content_length="99999999999"))
        assert refusal(one.reply(), 413)["code"] == "too_large"
        begun = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() < begun + 10:
                one.send(b" " * 1000)
                time.sleep(0.01)
        assert 0.4 < time.monotonic() - begun < 5
        assert becomes(lambda: len(server.lines) == 1) and server.lines[0]["seconds"] < 0.4


@pytest.mark.parametrize("size", [3000, 300_000])
def test_headers_that_are_too_long_are_refused(llm: LLM, size: int) -> None:
    with limited(llm, header_bytes=2000) as server:
        with wire(server.port) as one:
            one.send(request("/health", a="b" * size))
            assert refusal(one.reply(), 431)["code"] == "headers_too_large" and one.is_closed()
        with wire(server.port) as one:
            one.send(b"GET /health HTTP/1.1\r\n" + b"a: b\r\n" * 100_000)
            assert one.is_closed() and b" 431 " in one.data[:20]
        assert ask(server.port, "/health", a="b" * 1800).status == 200


def test_too_many_connections_are_sent_away(llm: LLM) -> None:
    with limited(llm, connections=3) as server:
        held = [Wire(server.port) for _ in range(3)]
        for one in held:
            one.send(request("/health"))
            assert one.reply().status == 200
        with wire(server.port) as more:
            reply = more.reply()
            assert refusal(reply, 503)["code"] == "busy" and reply.headers["retry-after"] == "1" and more.is_closed()
        held.pop().close()
        assert becomes(lambda: len(server.server.server_state.connections) == 2)
        assert ask(server.port, "/health").status == 200
        for one in held:
            one.close()


def test_a_connection_is_kept_open_between_requests_only_so_long(llm: LLM) -> None:
    with limited(llm, keep_alive_seconds=0.3) as server, wire(server.port) as one:
        for _ in range(3):
            one.send(request("/health"))
            assert one.reply().status == 200
            time.sleep(0.1)
        begun = time.monotonic()
        assert one.is_closed() and 0.05 < time.monotonic() - begun < 2


LARGE = {"prompt": [[5] * 900, [6] * 900], "max_tokens": 1, "prompt_logprobs": 100}  # more than fits into a system's buffers


def unread(server: Running, body: dict[str, Any], buffer: int = 4096) -> Wire:
    """A client with a small buffer that asks for a great deal and reads none of it."""
    one = Wire(server.port, receive_buffer=buffer)
    one.send(request("/v1/completions", body))
    return one


def test_a_client_that_does_not_read_its_stream_is_given_up_and_others_go_on(llm: LLM) -> None:
    expected = llm.generate([SHORT["prompt"]], SamplingParams(max_tokens=4, seed=5))[0].text
    with limited(llm, send_seconds=0.5) as server:
        one = unread(server, LONG | {"n": 8, "logprobs": 100})
        assert becomes(lambda: server.app.desk.open == 1)
        begun, others = time.monotonic(), 0
        while server.app.desk.open:
            assert ask(server.port, "/v1/completions", SHORT).json["choices"][0]["text"] == expected
            others += 1
            assert time.monotonic() - begun < 30
        assert others > 2 and llm.thread.wait_idle(5)
        assert becomes(lambda: not server.server.server_state.connections, 5), "what was not read holds the connection"
        one.close()


def test_an_answer_that_is_not_read_does_not_hold_its_connection(llm: LLM) -> None:
    with limited(llm, send_seconds=0.5, keep_alive_seconds=0.5) as server:
        one = unread(server, LARGE)
        assert becomes(lambda: server.app.desk.open == 1) and becomes(lambda: server.app.desk.open == 0, 60)
        assert server.server.server_state.connections
        assert becomes(lambda: not server.server.server_state.connections, 5)
        one.close()


def test_an_answer_that_is_read_slowly_is_read_to_its_end(llm: LLM) -> None:
    with limited(llm, send_seconds=0.5) as server:
        one = unread(server, LARGE, 64 << 10)
        head = one.until(b"\r\n\r\n").partition(b"\r\n\r\n")[0]
        size = len(head) + 4 + int(dict(line.split(b": ") for line in head.split(b"\r\n")[1:])[b"content-length"])
        parts, begun = [one.data], time.monotonic()
        while sum(map(len, parts)) < size:
            parts.append(one.socket.recv(1 << 16))
            assert parts[-1], "the server gave it up"
            time.sleep(0.01)
        assert size > 8 << 20 and time.monotonic() - begun > 1.0
        one.data = b"".join(parts)
        assert len(one.reply().json["choices"]) == 2
        one.close()


def test_a_stream_that_is_read_slowly_is_heard_to_its_end(llm: LLM) -> None:
    """One rule for streams and whole answers: only whoever takes nothing at all in this time is given up."""
    with limited(llm, send_seconds=0.5) as server:
        one = unread(server, LARGE | {"stream": True}, 64 << 10)
        parts, begun = [], time.monotonic()
        while not parts or not (parts[-2:] and b"".join(parts[-2:]).endswith(b"0\r\n\r\n")):
            parts.append(one.socket.recv(1 << 15))
            assert parts[-1], "the server gave it up"
            time.sleep(0.01)
        assert time.monotonic() - begun > 1.5, "longer than the limit for one piece"
        one.data = b"".join(parts)
        assert one.reply().events[-1] == "[DONE]"
        one.close()


@pytest.fixture
def many_files() -> Iterator[None]:
    """A thousand connections have two ends in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip("this machine allows no 2,000 open files and more")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_thousand_bodies_that_come_slowly_delay_nobody_else(many_files: None) -> None:
    with LLM(max_batch_size=2, kv_blocks=64) as llm, limited(llm, body_seconds=60) as server:
        alone = ask(server.port, "/v1/completions", SHORT).json["choices"][0]["text"]
        held = [Wire(server.port) for _ in range(1000)]
        for one in held:
            one.send(request("/v1/completions", None, "POST", content_length="100000") + b'{"prompt": "')
        assert becomes(lambda: len(server.server.server_state.tasks) == 1000, 30)
        waits, begun = [], time.monotonic()
        while time.monotonic() - begun < 1.5:
            for one in held:  # a byte of each
                one.send(b"x")
            asked = time.monotonic()
            assert ask(server.port, "/v1/completions", SHORT).json["choices"][0]["text"] == alone
            waits.append(time.monotonic() - asked)
        assert max(waits) < 2.0, waits
        for one in held:
            one.close()
        assert becomes(lambda: not server.server.server_state.connections, 30)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("streams", [True, False])
def test_a_client_that_goes_away_frees_its_blocks(llm: LLM, how: str, streams: bool) -> None:
    with limited(llm) as server:
        one = Wire(server.port)
        one.send(request("/v1/completions", LONG | {"stream": streams, "n": 4}))
        if streams:
            one.until(b"data: ")
        assert becomes(lambda: llm.engine.num_running == 4)
        getattr(one, how)()
        gone = time.monotonic()
        assert becomes(lambda: llm.engine.num_running == 0 and llm.engine.pool.num_free == llm.engine.pool.num_blocks, 2)
        assert time.monotonic() - gone < 0.5, "a step or two, not the 1000 that were asked for"


def test_a_client_that_goes_away_while_it_waits_leaves_the_queue(llm: LLM) -> None:
    with limited(llm) as server:
        busy = [Wire(server.port) for _ in range(2)]
        for one in busy:
            one.send(request("/v1/completions", LONG | {"n": 16}))
        assert becomes(lambda: llm.engine.num_waiting == 16)
        busy.pop().close()
        assert becomes(lambda: llm.engine.num_waiting == 0, 2) and llm.engine.num_running == 16
        busy.pop().close()


def test_a_client_that_goes_away_while_it_sends_is_forgotten(llm: LLM) -> None:
    with limited(llm) as server:
        with wire(server.port) as one:
            one.send(request("/v1/completions", None, "POST", content_length="1000") + b"{")
            assert becomes(lambda: len(server.server.server_state.tasks) == 1)
        assert becomes(lambda: not server.server.server_state.tasks)


def test_a_thousand_streams_are_held_open_and_all_of_them_may_leave(many_files: None) -> None:
    with LLM(max_batch_size=2, kv_blocks=64) as llm, limited(llm) as server:
        known = llm.generate([SHORT["prompt"]], SamplingParams(max_tokens=4, seed=5))[0].text
        held = [Wire(server.port) for _ in range(1000)]
        for one in held:
            one.send(request("/v1/completions", LONG))
        assert becomes(lambda: server.app.desk.open == 1000 and llm.engine.num_running == 2, 60)
        assert ask(server.port, "/health").status == 200
        begun = time.monotonic()
        assert ask(server.port, "/v1/completions", SHORT | {"priority": -1}).json["choices"][0]["text"] == known
        assert time.monotonic() - begun < 20
        assert all(b"200 OK" in one.until(b"\r\n\r\n") for one in held), "each has heard by now that it is taken"
        for one in held:
            one.close()
        assert becomes(lambda: server.app.desk.open == 0, 30) and llm.thread.wait_idle(10)
        assert not server.server.server_state.connections


def test_too_many_waiting_requests_are_told_to_come_again() -> None:
    with LLM(max_batch_size=1, kv_blocks=32, max_waiting=2) as llm, limited(llm) as server:
        held = [Wire(server.port) for _ in range(3)]
        for place, one in enumerate(held):
            one.send(request("/v1/completions", LONG))
            assert becomes(lambda place=place: llm.engine.num_running == 1 and llm.engine.num_waiting == place)
        reply = ask(server.port, "/v1/completions", LONG)
        error = refusal(reply, 429)
        assert (
            error["code"] == "rate_limit_exceeded" and error["type"] == "rate_limit_error" and reply.headers["retry-after"] == "1"
        )
        for one in held:
            one.close()
        assert becomes(lambda: server.app.desk.open == 0 and llm.engine.num_waiting == 0)
        assert ask(server.port, "/v1/completions", SHORT).status == 200


@pytest.mark.parametrize(("name", "value"), [("connections", 0), ("body_seconds", 0.0), ("send_seconds", float("nan"))])
def test_a_limit_that_cannot_be_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} is"):
        Limits(**{name: value})
