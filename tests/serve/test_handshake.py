"""TLS: a connection counts from its first moment, and its handshake has an end."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from brigade import LLM
from brigade.serve.limits import Limits
from tests.cli.test_serve import make_certificate
from tests.serve.raw import Wire, becomes, request, wire
from tests.serve.servers import Running, serving
from tests.serve.test_metrics import reasons


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@contextmanager
def secure(llm: LLM, pair: tuple[Path, Path], **limits: Any) -> Iterator[Running]:
    with serving(llm, limits=Limits(**limits), tls=pair) as made:
        yield made


def secret(server: Running, pair: tuple[Path, Path]) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=pair[0])
    return context.wrap_socket(socket.create_connection(("127.0.0.1", server.port), timeout=20), server_hostname="localhost")


def status(server: Running, pair: tuple[Path, Path]) -> bytes:
    with secret(server, pair) as one:
        one.sendall(request("/health"))
        return one.recv(1 << 16)[:12]


def connections(server: Running) -> int:
    return len(server.server.server_state.connections)


def test_a_connection_counts_before_its_handshake_is_done(llm: LLM, pair: tuple[Path, Path]) -> None:
    with secure(llm, pair, connections=3) as server:
        held = [Wire(server.port) for _ in range(3)]
        assert becomes(lambda: connections(server) == 3)
        with wire(server.port) as more:
            assert more.is_closed(5)
        assert becomes(lambda: reasons(server.app)["busy"] == 1) and connections(server) == 3
        for one in held:
            one.close()
        assert becomes(lambda: connections(server) == 0)
        assert status(server, pair) == b"HTTP/1.1 200"
        assert becomes(lambda: connections(server) == 0)


def test_a_connection_counts_once_when_its_handshake_is_done(llm: LLM, pair: tuple[Path, Path]) -> None:
    with secure(llm, pair, connections=2) as server:
        held = [secret(server, pair) for _ in range(2)]
        for one in held:
            one.sendall(request("/health"))
            assert one.recv(1 << 16).startswith(b"HTTP/1.1 200")
        assert connections(server) == 2
        for one in held:
            one.close()
        assert becomes(lambda: connections(server) == 0) and reasons(server.app)["tls"] == 0


def test_a_handshake_is_waited_for_only_so_long(llm: LLM, pair: tuple[Path, Path]) -> None:
    with secure(llm, pair, header_seconds=0.4) as server:
        begun = time.monotonic()
        with wire(server.port) as silent, wire(server.port) as half:
            half.send(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a first word
            assert silent.is_closed(5) and half.is_closed(5) and time.monotonic() - begun < 3
        assert becomes(lambda: connections(server) == 0) and reasons(server.app)["tls"] == 2
        assert [(line["error"], line["client"]) for line in server.lines] == [("tls", "127.0.0.1")] * 2
        assert [line["detail"] for line in server.lines] == ["it took too long"] * 2
        assert status(server, pair) == b"HTTP/1.1 200"


@pytest.mark.parametrize("how", ["close", "reset", "no tls"])
def test_a_handshake_that_fails_leaves_nothing(llm: LLM, pair: tuple[Path, Path], how: str) -> None:
    with secure(llm, pair) as server:
        one = Wire(server.port)
        assert becomes(lambda: connections(server) == 1)
        if how == "no tls":
            one.send(request("/health"))
            assert one.is_closed(5)
        else:
            getattr(one, how)()
        assert becomes(lambda: connections(server) == 0) and becomes(lambda: reasons(server.app)["tls"] == 1)
        said = "http request" if how == "no tls" else "the client left before it was done"
        assert becomes(lambda: len(server.lines) == 1) and server.lines[0]["detail"] == said


def test_a_server_ends_while_handshakes_are_open(llm: LLM, pair: tuple[Path, Path]) -> None:
    with secure(llm, pair) as server:
        held = [Wire(server.port) for _ in range(3)]
        assert becomes(lambda: connections(server) == 3)
        begun = time.monotonic()
        server.server.should_exit = True
        assert all(one.is_closed(3) for one in held) and time.monotonic() - begun < 3
