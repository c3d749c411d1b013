"""A client of HTTP/1.1 for measurements: plain asyncio sockets, and as little work for each byte as possible, because the processor
that it takes is missing where the server computes. It does not follow redirects, decompress, or speak TLS.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec

from brigade.bench.http_bodies import Chunked, Events, HttpError, Measured, Open
from brigade.errors import ConfigError

MOST_HEAD = 64 << 10  # bytes of a status line and headers


@dataclass(frozen=True, slots=True)
class Address:
    """Where an API begins: `http://127.0.0.1:8000/v1` has the path `/v1`."""

    host: str
    port: int
    path: str

    @classmethod
    def of(cls, url: str) -> Address:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"{url} is no address ({error}); give one such as http://127.0.0.1:8000/v1") from error
        if parts.scheme != "http" or not parts.hostname or parts.query or parts.fragment or parts.username:
            raise ConfigError(f"{url} is no address that can be measured; give one such as http://127.0.0.1:8000/v1, without TLS")
        return cls(parts.hostname, port or 80, parts.path.rstrip("/"))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}{self.path}"


class Connection(asyncio.Protocol):
    """Keeps what came until it is asked for. `is_fresh`: no request has gone over it yet."""

    def __init__(self) -> None:
        self._came: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None
        self.is_closed, self.is_fresh = False, True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._came.append(data)
        self._wake()

    def eof_received(self) -> None:
        self.is_closed = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def receive(self) -> bytes:
        """All that came since the last call; nothing at the end of the connection."""
        while not self._came and not self.is_closed:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        data = self._came[0] if len(self._came) == 1 else b"".join(self._came)
        self._came.clear()
        return data


class Response:
    """`headers` by their names in small letters. The body is read in one way: `read`, or `events` again and again."""

    def __init__(self, connection: Connection, status: int, headers: Mapping[str, str], rest: bytes) -> None:
        self.status, self.headers, self._connection = status, headers, connection
        self._rest, self._events = rest, Events()
        length = headers.get("content-length", "")
        if headers.get("transfer-encoding", "").lower() == "chunked":
            self._body: Chunked | Measured | Open = Chunked()
        elif status in (204, 304):
            self._body = Measured(0)
        else:
            self._body = Measured(int(length)) if length.isdigit() else Open()

    @property
    def may_be_followed(self) -> bool:
        return self._body.is_over and not self._connection.is_closed and self.headers.get("connection", "").lower() != "close"

    async def _part(self) -> bytes | None:
        """Some content; None at its end."""
        while True:
            if self._rest:
                data, self._rest = self._rest, b""
            elif self._body.is_over:
                return None
            else:
                data = await self._connection.receive()
                if not data:
                    if isinstance(self._body, Open):
                        return None
                    raise HttpError("the server ended the connection in the middle of its answer")
            if content := self._body.feed(data):
                return content

    async def read(self) -> bytes:
        parts = []
        while (part := await self._part()) is not None:
            parts.append(part)
        return b"".join(parts)

    async def events(self) -> list[bytes]:
        """The data of the events that came since the last call, of one at least; none at the end of the body."""
        while (part := await self._part()) is not None:
            if found := self._events.feed(part):
                return found
        return []


class HttpClient:
    """Of one event loop. Connections are kept for the next request, as many as were needed at once."""

    def __init__(self, address: Address, api_key: str | None = None) -> None:
        self.address = address
        host = f"[{address.host}]" if ":" in address.host else address.host
        more = "" if api_key is None else f"Authorization: Bearer {api_key}\r\n"
        self._head = f"Host: {host}:{address.port}\r\n{more}Content-Type: application/json\r\n"
        self._idle: list[Connection] = []

    @asynccontextmanager
    async def request(self, method: str, path: str, body: Any = None) -> AsyncIterator[Response]:
        """`path` comes behind the address's own. `body` is sent as JSON. An answer that is not read to its end costs its
        connection, which tells the server that nobody listens."""
        data = b"" if body is None else msgspec.json.encode(body)
        head = f"{method} {self.address.path}{path} HTTP/1.1\r\n{self._head}Content-Length: {len(data)}\r\n\r\n".encode()
        connection = await self._connection()
        response = None
        try:
            try:
                response = await _ask(connection, head + data)
            except HttpError:
                if connection.is_fresh:
                    raise
                connection.transport.close()  # the server had ended it while it was idle
                connection = await self._new()
                response = await _ask(connection, head + data)
            yield response
        finally:
            if response is not None and response.may_be_followed:
                connection.is_fresh = False
                self._idle.append(connection)
            else:
                connection.transport.close()

    async def json(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """The status, and the JSON of a whole answer; its text, where that is none."""
        async with self.request(method, path, body) as response:
            data = await response.read()
        with suppress(msgspec.DecodeError):
            return response.status, msgspec.json.decode(data)
        return response.status, data.decode(errors="replace")

    def close(self) -> None:
        for connection in self._idle:
            connection.transport.close()
        self._idle.clear()

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed:
                return connection
        return await self._new()

    async def _new(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(Connection, self.address.host, self.address.port)
        except OSError as error:
            raise HttpError(f"nobody answers at {self.address} ({error.strerror or error})") from error
        return connection


async def _ask(connection: Connection, data: bytes) -> Response:
    connection.transport.write(data)
    came = b""
    while True:
        while b"\r\n\r\n" not in came:
            part = await connection.receive()
            if not part:
                raise HttpError("the server ended the connection before it answered")
            came += part
            if len(came) > MOST_HEAD:
                raise HttpError(f"the server's headers are longer than {MOST_HEAD} bytes")
        head, _, came = came.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        status = first.split(" ", 2)[1:2]
        if not first.startswith("HTTP/1.") or not status or not status[0].isdigit():
            raise HttpError(f"{first[:60]!r} is no answer of HTTP")
        if not status[0].startswith("1"):  # 1xx: the answer itself follows
            return Response(connection, int(status[0]), _headers(lines), came)


def _headers(lines: Sequence[str]) -> dict[str, str]:
    pairs = (line.partition(":") for line in lines)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}
