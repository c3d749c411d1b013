"""Answers that are written and not read yet: who reads slowly hears all of it, also over TLS and from a server that ends."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from brigade import LLM
from brigade.serve import server as module
from brigade.serve.limits import Limits
from tests.cli.test_serve import make_certificate
from tests.serve.raw import Wire, becomes, request
from tests.serve.servers import Running, serving

LARGE = {"prompt": [[5] * 900, [6] * 900], "max_tokens": 1, "prompt_logprobs": 100}  # more than fits into a system's buffers


@pytest.fixture(scope="module", params=["plain", "tls"])
def pair(request, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A certificate and its key, or none."""
    return () if request.param == "plain" else make_certificate(tmp_path_factory.mktemp("tls"))


def connect(server: Running, pair: tuple[Path, ...], buffer: int = 64 << 10) -> Wire:
    one = Wire(server.port, receive_buffer=buffer)
    if pair:
        one.socket = ssl.create_default_context(cafile=pair[0]).wrap_socket(one.socket, server_hostname="localhost")
    return one


def slow(server: Running, pair: tuple[Path, ...], body: dict[str, Any], **headers: str) -> Wire:
    """A client that asks for a great deal and has read none of it when all of it is there."""
    one = connect(server, pair)
    one.send(request("/v1/completions", body, **headers))
    assert becomes(lambda: server.app.desk.open == 1) and becomes(lambda: server.app.desk.open == 0, 60)
    return one


def read(one: Wire, pause: float = 0.0) -> bytes:
    """One answer to its end, with a pause between any two pieces."""
    data = bytearray(one.data)
    while not is_whole(data):
        more = one.socket.recv(1 << 15)
        assert more, f"the server gave it up after {len(data)} bytes"
        data += more
        time.sleep(pause)
    return bytes(data)


def is_whole(data: bytearray) -> bool:
    end = data.find(b"\r\n\r\n", 0, 4096)
    length = re.search(rb"content-length: (\d+)", data[: max(end, 0)])
    return end > 0 and (len(data) == end + 4 + int(length[1]) if length else data.endswith(b"\r\n0\r\n\r\n"))


def end(server: Running) -> None:
    """As SIGTERM does."""
    server.server._loop.call_soon_threadsafe(server.server._begin_to_drain, "SIGTERM")


@contextmanager
def ending(llm: LLM, pair: Any, monkeypatch, **limits: Any) -> Iterator[Running]:
    monkeypatch.setattr(module, "LAST_WORDS", 0.3)
    with serving(llm, limits=Limits(**limits), tls=pair) as made:
        yield made


def test_a_server_that_ends_waits_for_who_reads_an_answer_that_is_written(llm: LLM, pair: Any, monkeypatch) -> None:
    with ending(llm, pair, monkeypatch) as server:
        one = slow(server, pair, LARGE)
        end(server)
        time.sleep(1.0)
        assert not server.server.should_exit
        assert len(read(one)) > 8 << 20
        assert becomes(lambda: server.server.should_exit, 2) and one.is_closed()
        one.close()


def test_it_waits_no_longer_than_it_may(llm: LLM, pair: Any, monkeypatch, capsys) -> None:
    with ending(llm, pair, monkeypatch, drain_seconds=0.5) as server:
        one, begun = slow(server, pair, LARGE), time.monotonic()
        end(server)
        assert becomes(lambda: server.server.should_exit, 5) and time.monotonic() - begun > 0.45
        assert "1 answer was not read to the end after 0.5 s; what is left is cut off" in capsys.readouterr().err
        one.close()


def test_a_terminal_that_is_gone_changes_nothing_of_the_end(llm: LLM, pair: Any, monkeypatch) -> None:
    class Gone:
        def write(self, text: str) -> int:
            raise BrokenPipeError

        flush = write

    with ending(llm, pair, monkeypatch, drain_seconds=0.5) as server:
        one = connect(server, pair)
        one.send(request("/v1/completions", {"prompt": "a", "n": 100, "max_tokens": 1000, "ignore_eos": True, "stream": True}))
        one.until(b"data: ")
        monkeypatch.setattr("sys.stderr", Gone())
        end(server)
        assert becomes(lambda: server.server.should_exit, 5) and one.until(b"[DONE]").count(b'"draining"') == 1
        one.close()


def test_nobody_who_takes_nothing_holds_up_the_end(llm: LLM, pair: Any, monkeypatch) -> None:
    with ending(llm, pair, monkeypatch, send_seconds=0.5) as server:
        one, begun = slow(server, pair, LARGE), time.monotonic()
        end(server)
        assert becomes(lambda: server.server.should_exit, 5) and time.monotonic() - begun < 3
        one.close()


def test_a_stream_is_open_until_its_last_word_is_written(llm: LLM, pair: Any) -> None:
    """It is heard by a client whose buffers are full when the last token comes, and ends as every other."""
    with serving(llm, limits=Limits(send_seconds=20), tls=pair) as server:
        one = connect(server, pair, 4096)
        one.send(request("/v1/completions", LARGE | {"stream": True}))
        one.until(b"data: ")
        assert becomes(lambda: server.app.desk.open == 1) and llm.thread.wait_idle(60)
        assert not becomes(lambda: server.app.desk.open == 0, 1)
        assert read(one).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n") and becomes(lambda: server.app.desk.open == 0)
        one.close()


def test_what_is_not_read_does_not_hold_its_connection(llm: LLM, pair: Any) -> None:
    with serving(llm, limits=Limits(send_seconds=0.5, keep_alive_seconds=30), tls=pair) as server:
        one = slow(server, pair, LARGE)
        assert server.server.server_state.connections
        assert becomes(lambda: not server.server.server_state.connections, 5)
        one.close()


@pytest.mark.parametrize("how", ["kept open", "closed behind it", "a stream"])
def test_who_reads_slowly_hears_all_of_it(llm: LLM, pair: Any, monkeypatch, how: str) -> None:
    """Longer than the server waits for a word of who takes nothing, for the next request, and for the end of TLS."""
    monkeypatch.setattr("asyncio.constants.SSL_SHUTDOWN_TIMEOUT", 0.5)
    with serving(llm, limits=Limits(send_seconds=0.5, keep_alive_seconds=0.5), tls=pair) as server:
        if how == "a stream":
            one = connect(server, pair)
            one.send(request("/v1/completions", LARGE | {"stream": True}))
        else:
            one = slow(server, pair, LARGE, **({"connection": "close"} if how == "closed behind it" else {}))
        begun = time.monotonic()
        assert len(read(one, 0.005)) > 8 << 20 and time.monotonic() - begun > 1.5
        assert becomes(lambda: not server.server.server_state.connections, 5)
        one.close()
