"""A server for tests of who measures servers: it says bytes that a test gives it, cut where the test wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

Answer = Callable[[str, str, Any], Sequence[bytes]]  # method, path and body of a request, to the pieces that are sent


class Bytes:
    """`heads`: of the requests that came; `connections`: how many were opened."""

    def __init__(self, answer: Answer, *, closes: bool = False) -> None:
        self.answer, self.closes = answer, closes
        self.heads: list[str] = []
        self.bodies: list[Any] = []
        self.connections = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0] or 0)
                body = json.loads(await reader.readexactly(length)) if length else None
                self.heads.append(head)
                self.bodies.append(body)
                method, path, _ = head.split(" ", 2)
                for piece in self.answer(method, path, body):
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.001)
                if self.closes:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def listening(made: Bytes):
    """The URL at which it listens."""
    server = await asyncio.start_server(made, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()


def chunked(*contents: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in contents) + b"0\r\n\r\n"


def whole(body: Any, status: str = "200 OK") -> bytes:
    data = json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(found: Any) -> bytes:
    return b"data: " + (found if isinstance(found, bytes) else json.dumps(found).encode()) + b"\n\n"


def token(text: str, finish: str | None = None) -> bytes:
    return event({"choices": [{"index": 0, "text": text, "finish_reason": finish}]})


def usage(tokens: int) -> bytes:
    return event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": tokens}})
