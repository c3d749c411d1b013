"""The HTTP client of measurements: bodies of every kind, cut anywhere; connections that are kept, and that were ended meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from brigade.bench.http_bodies import Chunked, Events, HttpError
from brigade.bench.http_client import Address, HttpClient
from brigade.errors import ConfigError
from tests.bench.http_servers import STREAM, Bytes, chunked, event, listening, whole


def asked(made: Bytes, work: Callable[[HttpClient], Any], api_key: str | None = None) -> Any:
    async def run() -> Any:
        async with listening(made) as url:
            client = HttpClient(Address.of(url), api_key)
            try:
                return await asyncio.wait_for(work(client), 10)
            finally:
                client.close()

    return asyncio.run(run())


def saying(*pieces: bytes) -> Callable[..., Sequence[bytes]]:
    return lambda method, path, body: pieces


def every_cut(data: bytes) -> list[tuple[bytes, bytes]]:
    return [(data[:place], data[place:]) for place in range(len(data) + 1)]


BODY = b"5;name=value\r\nhello\r\n1\r\n,\r\nA\r\n 23456789\n\r\n0\r\nx-trailer: 1\r\n\r\n"


@pytest.mark.parametrize("pieces", [*every_cut(BODY), tuple(bytes([one]) for one in BODY)])
def test_a_chunked_body_is_read_wherever_it_is_cut(pieces: Sequence[bytes]) -> None:
    body = Chunked()
    assert b"".join(map(body.feed, pieces)) == b"hello, 23456789\n" and body.is_over


def test_a_chunked_body_is_over_at_its_end_and_not_before() -> None:
    body = Chunked()
    body.feed(BODY[:-1])
    assert not body.is_over
    with pytest.raises(HttpError, match="b'five' is no size"):
        Chunked().feed(b"five\r\n")


TEXT = b'data: {"a": 1}\n\n: a comment\n\nevent: more\r\ndata: two\r\ndata:lines\r\n\r\ndata: [DONE]\n\ndata: cut'


@pytest.mark.parametrize("pieces", [*every_cut(TEXT), tuple(bytes([one]) for one in TEXT)])
def test_events_are_read_wherever_they_are_cut(pieces: Sequence[bytes]) -> None:
    events = Events()
    assert [one for piece in pieces for one in events.feed(piece)] == [b'{"a": 1}', b"two\nlines", b"[DONE]"]


@pytest.mark.parametrize(
    "pieces",
    [
        [b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{"a":1}'],
        [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-", b'length: 7\r\n\r\n{"a"', b":1}"],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunked(b'{"a"', b":1}")],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", b'3\r\n{"a\r', b'\n4\r\n":1}\r\n0\r\n', b"\r\n"],
    ],
    ids=["length", "cut", "chunked", "chunks cut"],
)
def test_an_answer_is_read_and_its_connection_kept(pieces: list[bytes]) -> None:
    made = Bytes(saying(*pieces))

    async def work(client: HttpClient) -> list[Any]:
        return [await client.json("POST", "/x", {"question": number}) for number in range(3)]

    assert asked(made, work) == [(200, {"a": 1})] * 3
    assert made.connections == 1 and made.bodies == [{"question": number} for number in range(3)]
    assert made.heads[0].startswith("POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1:")


def test_an_answer_that_ends_with_its_connection_is_read() -> None:
    made = Bytes(saying(b"HTTP/1.1 404 Not Found\r\n\r\nno ", b"such thing"), closes=True)

    async def work(client: HttpClient) -> list[Any]:
        return [await client.json("GET", "/x") for _ in range(2)]

    assert asked(made, work) == [(404, "no such thing")] * 2 and made.connections == 2


def test_a_connection_that_was_ended_while_idle_is_replaced() -> None:
    made = Bytes(saying(whole({"a": 1})), closes=True)

    async def work(client: HttpClient) -> list[Any]:
        found = [await client.json("GET", "/x")]
        client._idle[0].is_closed = False  # as if its end had not come here yet
        return [*found, await client.json("GET", "/x")]

    assert asked(made, work) == [(200, {"a": 1})] * 2 and made.connections == 2


def test_as_many_connections_as_are_needed_at_once() -> None:
    made = Bytes(saying(whole({})))

    async def work(client: HttpClient) -> None:
        for _ in range(2):
            await asyncio.gather(*(client.json("GET", "/x") for _ in range(5)))

    asked(made, work)
    assert made.connections == 5 and len(made.heads) == 10


def test_events_come_as_they_are_sent() -> None:
    made = Bytes(saying(STREAM, chunked(event(b"1")).removesuffix(b"0\r\n\r\n"), chunked(event(b"2") + event(b"3"))))

    async def work(client: HttpClient) -> list[list[bytes]]:
        found = []
        async with client.request("POST", "/x", {}) as response:
            while events := await response.events():
                found.append(events)
        return found

    assert asked(made, work) == [[b"1"], [b"2", b"3"]]


def test_an_answer_that_is_left_costs_its_connection() -> None:
    made = Bytes(saying(STREAM, chunked(event(b"1"))))

    async def work(client: HttpClient) -> None:
        async with client.request("POST", "/x", {}):
            pass
        async with client.request("POST", "/x", {}) as response:
            assert await response.read() == event(b"1")

    asked(made, work)
    assert made.connections == 2


def test_a_key_is_sent() -> None:
    made = Bytes(saying(whole({})))
    asked(made, lambda client: client.json("GET", "/x"), api_key="secret")
    assert "\r\nAuthorization: Bearer secret\r\n" in made.heads[0]


@pytest.mark.parametrize(
    ("pieces", "words"),
    [([b"SSH-2.0-x\r\n\r\n"], "'SSH-2.0-x' is no answer of HTTP"), ([], "before it answered"),
     ([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"], "in the middle"), ([b"x" * 70_000], "headers are longer")],
)  # fmt: skip
def test_what_is_no_answer_is_an_error(pieces: list[bytes], words: str) -> None:
    with pytest.raises(HttpError, match=words):
        asked(Bytes(saying(*pieces), closes=True), lambda client: client.json("GET", "/x"))


def test_nobody_there_is_an_error() -> None:
    with pytest.raises(HttpError, match="nobody answers at http://127.0.0.1:1"):
        asyncio.run(HttpClient(Address.of("http://127.0.0.1:1/v1")).json("GET", "/x"))


def test_addresses() -> None:
    assert Address.of("http://host:81/v1/") == Address("host", 81, "/v1") and Address.of("http://host").port == 80
    assert str(Address.of("http://[::1]:8000/v1")) == "http://[::1]:8000/v1"
    for wrong in ("https://host/v1", "host:80", "http://host:port", "http:///v1", "http://host?x=1"):
        with pytest.raises(ConfigError, match="give one such as http://127.0.0.1:8000/v1"):
            Address.of(wrong)
