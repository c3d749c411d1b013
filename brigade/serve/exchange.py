"""One request and its answer over ASGI: the body within its limits, the answer at once or as server-sent events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec

from brigade.api.faces import Feed
from brigade.engine.outputs import Delta, RequestOutput
from brigade.serve.desk import Desk, failed
from brigade.serve.errors import ApiError, as_api_error, request_failed
from brigade.serve.job import Answer, Object
from brigade.serve.limits import Limits
from brigade.serve.record import Record

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]
encode = msgspec.json.encode
JSON = (b"content-type", b"application/json")
EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
MANY = 2000  # tokens of an answer from which it is written on another thread
PATIENCE = 1.0  # seconds that the status waits for a first word, since a refusal may come instead of it
LINGER, SILENCE = 30.0, 2.0  # seconds that what is not wanted is still read, in all and without a word of it
BEAT = 15.0  # seconds of silence after which a comment tells the client, and what lies between, that the stream is alive


class ClientGone(Exception):
    """Nobody hears the answer any more."""


async def read_all(receive: Receive, headers: dict[bytes, bytes], limits: Limits) -> bytes:
    """The body; a longer one than is allowed is not read to its end."""
    coding = headers.get(b"content-encoding", b"identity").decode("latin-1").strip()
    if coding.lower() != "identity":
        said = f"content-encoding is {coding[:60]}, which is not read; send the body uncompressed, without this header"
        raise ApiError(415, said, code="unsupported_encoding")
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > limits.body_bytes:
        raise too_long(limits)
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                part = message.get("body", b"")
                size += len(part)
                if size > limits.body_bytes:
                    raise too_long(limits)
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise ApiError(408, f"the body was not there after {limits.body_seconds:g} s; send it at once", code="timeout") from None


def too_long(limits: Limits) -> ApiError:
    return ApiError(413, f"the body is longer than the {limits.body_bytes} bytes that are allowed; send less", code="too_large")


async def while_heard(work: Coroutine[Any, Any, None], receive: Receive) -> None:
    """`work`, which is cancelled where the client goes away."""
    main = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait({main, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not main.done():
            main.cancel()
            await asyncio.wait({main})
            raise ClientGone
        main.result()
    finally:
        for one in (main, gone):
            one.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_json(send: Send, status: int, body: Object) -> None:
    await send_bytes(send, status, encode(body), [JSON])


async def send_bytes(
    send: Send, status: int, data: bytes, headers: list[tuple[bytes, bytes]], stays_open: bool = False
) -> None:  # fmt: skip
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"content-length", b"%d" % len(data))]})
    await send({"type": "http.response.body", "body": data, "more_body": stays_open})


async def send_error(send: Send, error: ApiError, leaves_unread: bool = False) -> None:
    """`leaves_unread`: some of the request; `drop_rest` comes behind it then."""
    headers = error.headers
    if leaves_unread or error.status == 408:
        headers = headers | {"connection": "close"}
    given = [JSON, *[(name.encode(), value.encode()) for name, value in headers.items()]]
    await send_bytes(send, error.status, encode(error.body), given, leaves_unread)


async def drop_rest(receive: Receive, send: Send) -> None:
    """Behind an answer that is whole for its client: what the client still sends is read and dropped, and only then is the
    connection closed. Closed at once it would be reset, and most clients would not see the answer. Bounded for who never ends."""
    until = time.monotonic() + LINGER
    with suppress(TimeoutError):
        while (left := until - time.monotonic()) > 0:
            async with asyncio.timeout(min(SILENCE, left)):
                message = await receive()
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                break
    await send({"type": "http.response.body", "body": b""})


@contextmanager
def _asked(desk: Desk, prepared: list[Any], record: Record, deltas: bool) -> Iterator[Feed]:
    """However it ends, the record has the prompts that were read."""
    with desk.opened(prepared, deltas) as feed:
        record.submitted()
        try:
            yield feed
        finally:
            record.prompt_tokens = record.prompt_tokens or feed.prompt_tokens


async def answer_whole(answer: Answer, desk: Desk, record: Record, send: Send, is_large: bool) -> None:
    """`is_large`: the request is, so that reading it is left to another thread."""
    prepared = await desk.prepare(answer.job, answer.served, is_large)
    outputs: dict[int, RequestOutput] = {}
    with _asked(desk, prepared, record, deltas=False) as feed:  # until the answer is sent
        while feed.left:
            outputs.update((place, said) for place, said in await feed.next() if isinstance(said, RequestOutput))
        ordered = [outputs[place] for place in range(len(prepared))]
        record.ended(ordered)
        error = failed(ordered)
        if error is not None:
            raise request_failed(error)
        if record.tokens + record.prompt_tokens > MANY:
            data = await asyncio.to_thread(lambda: encode(answer.whole(ordered)))
        else:
            data = encode(answer.whole(ordered))
        await send_bytes(send, 200, data, [JSON])


async def answer_stream(answer: Answer, desk: Desk, record: Record, send: Send, is_large: bool) -> None:
    """The status is sent with the first word, so that what is refused has a status of its own."""
    prepared = await desk.prepare(answer.job, answer.served, is_large)
    stream = _Stream(send)
    outputs: dict[int, RequestOutput] = {}
    with _asked(desk, prepared, record, deltas=True) as feed:
        said = await feed.next(PATIENCE)
        await stream.begin(answer.begin())
        try:
            while True:
                objects: list[Object] = []
                for place, one in said:
                    if isinstance(one, RequestOutput):
                        outputs[place] = one
                    else:
                        record.heard(one)
                        objects += _objects(answer, place, one, record)
                await stream.say(objects, beat=True)
                if not feed.left:
                    break
                said = await feed.next(BEAT)
            ordered = [outputs[place] for place in range(len(prepared))]
            record.ended(ordered)
            if failed(ordered) is None:
                await stream.say(answer.end(ordered))
        except (ClientGone, asyncio.CancelledError):
            raise
        except Exception as error:  # the status is out: the error is an event
            found = as_api_error(error, answer.job.names)
            record.failed(found, error)
            await stream.say([found.body])
        await stream.close()  # only then is it over: whoever waits for what is open waits for this too


def _objects(answer: Answer, place: int, delta: Delta, record: Record) -> list[Object]:
    if delta.finish_reason == "error":
        error = request_failed(delta)
        record.failed(error, None)
        return [error.body]
    return answer.chunk(place, delta)


class _Stream:
    """Server-sent events. Whether a client reads them is the protocol's to see: it ends the connection of one that does not."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._sent = 0.0

    async def begin(self, objects: list[Object]) -> None:
        await self._send({"type": "http.response.start", "status": 200, "headers": EVENTS})
        await self.say(objects)

    async def say(self, objects: list[Object], beat: bool = False) -> None:
        data = b"".join([b"data: %b\n\n" % encode(one) for one in objects])
        if not data and beat and time.monotonic() - self._sent >= BEAT:
            data = b": this stream is alive\n\n"
        if data:
            await self._write(data, True)

    async def close(self) -> None:
        await self._write(b"data: [DONE]\n\n", False)

    async def _write(self, data: bytes, more: bool) -> None:
        self._sent = time.monotonic()
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
