"""HTTP without a client library: bytes onto a socket, and what comes back read strictly."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """Of a stream: its objects, and what it ends with."""
        parts = [part for part in self.body.decode().split("\n\n") if part and not part.startswith(":")]
        assert all(part.startswith("data: ") for part in parts), parts
        said = [part.removeprefix("data: ") for part in parts]
        return [one if one == "[DONE]" else json.loads(one) for one in said]

    @property
    def token_ids(self) -> list[int]:
        """Of a stream of one answer that was asked with return_token_ids."""
        return [token for event in self.events if event != "[DONE]" for one in event["choices"] for token in one["token_ids"]]


class Broken(Exception):
    """These bytes are no answer, and more of them would not make one of them."""


def read_replies(data: bytes, heads: bool = False) -> tuple[list[Reply], bytes]:
    """All whole answers, and what is left behind them. `heads`: the questions were HEAD, so that no body follows."""
    found: list[Reply] = []
    while True:
        one = _read_reply(data, heads)
        if one is None:
            return found, data
        if one[0].status != 100:
            found.append(one[0])
        data = one[1]


def _read_reply(data: bytes, heads: bool) -> tuple[Reply, bytes] | None:
    head, end, rest = data.partition(b"\r\n\r\n")
    if data and not data.startswith(b"HTTP/1.1 "[: len(data)]):
        raise Broken(data[:200])
    if not end:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    status = int(first.split(" ", 2)[1])
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    if status in (100, 204) or heads:
        return Reply(status, headers, b""), rest
    if headers.get("transfer-encoding") == "chunked":
        body, left = _read_chunks(rest)
        return None if left is None else (Reply(status, headers, body), left)
    length = int(headers["content-length"])
    return None if len(rest) < length else (Reply(status, headers, rest[:length]), rest[length:])


def _read_chunks(data: bytes) -> tuple[bytes, bytes | None]:
    body = b""
    while True:
        size, end, rest = data.partition(b"\r\n")
        if not end or len(rest) < int(size, 16) + 2:
            return body, None
        count = int(size, 16)
        if rest[count : count + 2] != b"\r\n":
            raise Broken(rest[:200])
        body, data = body + rest[:count], rest[count + 2 :]
        if not count:
            return body, data


def request(path: str, body: Any = None, method: str | None = None, **headers: str) -> bytes:
    """`headers`: underlines stand for hyphens. A body that is no bytes is written as JSON."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method or ('GET' if body is None else 'POST')} {path} HTTP/1.1"]
    lines += [] if "host" in headers else ["host: localhost"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body is not None and "content_length" not in headers and "transfer_encoding" not in headers:
        lines.append(f"content-length: {len(data)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + data


class Wire:
    """One connection."""

    def __init__(self, port: int, timeout: float = 20.0, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        self.socket.connect(("127.0.0.1", port))
        self.data = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reply(self, heads: bool = False) -> Reply:
        """The next one."""
        while True:
            one = _read_reply(self.data, heads)
            if one is not None:
                self.data = one[1]
                return one[0]
            self._receive()

    def until(self, words: bytes) -> bytes:
        """What came up to these words, which stay."""
        while words not in self.data:
            self._receive()
        return self.data

    def _receive(self) -> None:
        more = self.socket.recv(1 << 16)
        if not more:
            raise EOFError(f"the server closed the connection after {self.data[-200:]!r}")
        self.data += more

    def is_closed(self, within: float = 10.0) -> bool:
        """Whether the server closes it in this time; what it says before that is kept."""
        until = time.monotonic() + within
        while time.monotonic() < until:
            self.socket.settimeout(max(until - time.monotonic(), 0.01))
            try:
                more = self.socket.recv(1 << 16)
            except TimeoutError:
                return False
            except ConnectionError:
                return True
            if not more:
                return True
            self.data += more
        return False

    def reset(self) -> None:
        """Goes away without a word."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        self.socket.close()


@contextmanager
def wire(port: int, **more: Any) -> Iterator[Wire]:
    made = Wire(port, **more)
    try:
        yield made
    finally:
        made.close()


def ask(port: int, path: str, body: Any = None, **more: str) -> Reply:
    with wire(port) as made:
        made.send(request(path, body, **more))
        return made.reply()


def is_error(found: Any) -> bool:
    """Whether it has the shape that OpenAI's clients read."""
    error = found.get("error") if isinstance(found, dict) else None
    return (
        isinstance(error, dict)
        and set(error) == {"message", "type", "param", "code"}
        and isinstance(error["message"], str)
        and isinstance(error["type"], str)
        and all(error[name] is None or isinstance(error[name], str) for name in ("param", "code"))
    )


def becomes(condition: Any, within: float = 10.0) -> bool:
    """Whether `condition()` is true in this time."""
    until = time.monotonic() + within
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True
