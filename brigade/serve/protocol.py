"""uvicorn's HTTP protocol with limits that it does not have: on connections, on headers, and on how long they take."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import httptools
import msgspec
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from brigade.serve.errors import ApiError
from brigade.serve.limits import Limits
from brigade.serve.refusals import Refusals

MOST_BEHIND = 256 << 10  # bytes of requests that are read while one before them is answered


class _Flow(FlowControl):
    """`is_full`: whether so much waits here that no more is read, whoever asks for it."""

    def __init__(self, transport: asyncio.Transport, is_full: Callable[[], bool]) -> None:
        super().__init__(transport)
        self._is_full = is_full

    def resume_reading(self) -> None:
        if not self._is_full():
            super().resume_reading()


class GuardedProtocol(HttpToolsProtocol):
    """What a client sends that is no request is answered in the shape of every other error, and ends the connection."""

    limits = Limits()
    refusals = Refusals(lambda reason: None, lambda line: None)

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.handshake: Any = None  # in the set of connections until this is
        self._behind = 0  # bytes that came behind a request that is being answered
        self._head = 0  # bytes of the headers that are coming
        self._is_in_head = True
        self._refusal: ApiError | None = None
        self._late: asyncio.TimerHandle | None = None
        self._open = deque[RequestResponseCycle]()  # requests in the order in which they came, the first of which is being answered
        self._unread: asyncio.TimerHandle | None = None
        self._skips_head = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.connections.discard(self.handshake)
        super().connection_made(transport)
        self.flow = _Flow(transport, lambda: bool(self.pipeline) and self._behind > MOST_BEHIND)
        transport.set_write_buffer_limits(high=1)  # `pause_writing` is called as soon as a client does not take what it is sent
        if len(self.connections) > self.limits.connections:
            self._refuse(
                ApiError(503, f"{self.limits.connections} connections are open, and no more are taken; try later", None, "busy", 1)
            )
            return
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._all_is_read()
        super().connection_lost(exc)
        for cycle in self._open:  # uvicorn tells the newest alone
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    @property
    def unsent(self) -> int:
        """Bytes of answers that are written and that its client has not taken yet."""
        return self.transport.get_write_buffer_size()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._all_is_read()
        self._look_later()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._all_is_read()

    def _look_later(self) -> None:
        self._unread = self.loop.call_later(self.limits.send_seconds, self._look_whether_read, self.unsent)

    def _look_whether_read(self, left: int) -> None:
        """The one rule for clients that do not read: whoever took nothing at all in this time is given up, whatever is sent to it.
        A closed connection too would be held until its client has read the rest."""
        if self.unsent < left:
            self._look_later()
        else:
            self.transport.abort()

    def _all_is_read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._is_in_head:
            self._head += len(data)
            if self._late is None:  # empty lines before a request, which are no message yet
                self._wait_for_head()
        try:
            self._unset_keepalive_if_required()
            self._parse(data)
        except Exception as error:  # the parser's own complaints have their answer by now
            self._refuse(ApiError(400, f"this is no HTTP request ({type(error).__name__})", code="bad_request"))
            return
        self._read_on(len(data))
        if self._is_in_head and self._head > self.limits.header_bytes and not self.transport.is_closing():
            self._refuse(self._too_large())

    def _read_on(self, size: int) -> None:
        """uvicorn stops reading when a request comes behind another one, and would hear of a client that leaves only after the
        answer. So this goes on to read, up to a bound."""
        if not self.pipeline:
            self._behind = 0
            return
        self._behind += size
        self.flow.resume_reading()

    def _parse(self, data: bytes) -> None:
        while True:
            try:
                return self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                self._decline_upgrade()
            except httptools.HttpParserError:
                return self.send_400_response("")

    def _decline_upgrade(self) -> None:
        """A request for an upgrade is an ordinary one where it is not granted (RFC 9110, 7.8; Java's client asks for HTTP/2).
        Its parser takes what follows for another protocol, so the body is read by a new one, which needs a head first."""
        framing = [b"%b: %b\r\n" % one for one in self.headers if one[0] in (b"content-length", b"transfer-encoding")]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
        self._skips_head = True
        self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(framing))
        self._skips_head = False

    def on_url(self, url: bytes) -> None:
        if not self._skips_head:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._skips_head:
            return
        super().on_header(name, value)
        if not self._is_in_head:  # fields behind a chunked body
            self._head += len(name) + len(value) + 4
            if self._head > self.limits.header_bytes:
                self._refusal = self._too_large()
                raise httptools.HttpParserError("trailers")

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():  # else the new parser says so
            super().on_message_complete()

    def on_message_begin(self) -> None:
        if self._skips_head:
            return
        super().on_message_begin()
        self._head, self._is_in_head = 0, True
        self._wait_for_head()

    def on_headers_complete(self) -> None:
        if self._skips_head:
            return
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        self._is_in_head = False
        self._stop_waiting()
        if size > self.limits.header_bytes:
            self._refusal = self._too_large()
            raise httptools.HttpParserError("headers")
        super().on_headers_complete()
        while self._open and self._open[0].response_complete:
            self._open.popleft()
        self._open.append(self.cycle)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.pipeline:
            self._behind = 0
            self.flow.resume_reading()
        if not self.transport.is_closing() and self.timeout_keep_alive_task is not None:
            self._is_in_head, self._head = True, 0

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._refusal or ApiError(400, "this is no HTTP request that can be read", code="bad_request"))

    def _too_large(self) -> ApiError:
        most = self.limits.header_bytes
        return ApiError(431, f"the headers are longer than the {most} bytes that are allowed; send less", code="headers_too_large")

    def _wait_for_head(self) -> None:
        self._stop_waiting()
        self._late = self.loop.call_later(self.limits.header_seconds, self._head_is_late)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _head_is_late(self) -> None:
        if self.transport.is_closing():
            return
        if self.flow.read_paused:  # by this side, until the requests before it are answered
            self._wait_for_head()
            return
        seconds = self.limits.header_seconds
        self._refuse(ApiError(408, f"the headers were not there after {seconds:g} s; send them at once", code="timeout"))

    def _refuse(self, error: ApiError) -> None:
        self._stop_waiting()
        if self.transport.is_closing():
            return
        self.refusals.note("" if self.client is None else str(self.client[0]), error.code or "bad_request", error.status)
        busy = self.cycle is not None and not self.cycle.response_complete
        if not busy:  # an answer that has begun cannot be followed by another
            body = msgspec.json.encode(error.body)
            phrase = HTTPStatus(error.status).phrase
            head = [f"HTTP/1.1 {error.status} {phrase}", "content-type: application/json", f"content-length: {len(body)}"]
            head += [f"{name}: {value}" for name, value in error.headers.items()] + ["connection: close"]
            self.transport.write("\r\n".join([*head, "", ""]).encode() + body)
        self.transport.close()


def guarded(limits: Limits, refusals: Refusals) -> type[GuardedProtocol]:
    return type("GuardedProtocol", (GuardedProtocol,), {"limits": limits, "refusals": refusals})
