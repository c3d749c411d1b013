"""uvicorn's HTTP protocol with limits that it does not have: on connections, on headers, and on how long they take."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from brigade.serve.errors import ApiError
from brigade.serve.limits import Limits


class GuardedProtocol(HttpToolsProtocol):
    """What a client sends that is no request is answered in the shape of every other error, and ends the connection."""

    limits = Limits()

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._head = 0  # bytes of the headers that are coming
        self._is_in_head = True
        self._refusal: ApiError | None = None
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse(
                ApiError(503, f"{self.limits.connections} connections are open, and no more are taken; try later", None, "busy", 1)
            )
            return
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._is_in_head:
            self._head += len(data)
        try:
            super().data_received(data)
        except Exception as error:  # the parser's own complaints have their answer by now
            self._refuse(ApiError(400, f"this is no HTTP request ({type(error).__name__})", code="bad_request"))
            return
        if self._is_in_head and self._head > self.limits.header_bytes and not self.transport.is_closing():
            self._refuse(self._too_large())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head, self._is_in_head = 0, True
        self._wait_for_head()

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        self._is_in_head = False
        self._stop_waiting()
        if size > self.limits.header_bytes:
            self._refusal = self._too_large()
            raise httptools.HttpParserError("headers")
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing() and self.timeout_keep_alive_task is not None:
            self._is_in_head, self._head = True, 0

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._refusal or ApiError(400, "this is no HTTP request that can be read", code="bad_request"))

    def handle_websocket_upgrade(self) -> None:
        self._refuse(ApiError(400, "websockets are not spoken here", code="bad_request"))

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
        seconds = self.limits.header_seconds
        self._refuse(ApiError(408, f"the headers were not there after {seconds:g} s; send them at once", code="timeout"))

    def _refuse(self, error: ApiError) -> None:
        self._stop_waiting()
        if self.transport.is_closing():
            return
        busy = self.cycle is not None and not self.cycle.response_complete
        if not busy:  # an answer that has begun cannot be followed by another
            body = msgspec.json.encode(error.body)
            phrase = HTTPStatus(error.status).phrase
            head = [f"HTTP/1.1 {error.status} {phrase}", "content-type: application/json", f"content-length: {len(body)}"]
            head += [f"{name}: {value}" for name, value in error.headers.items()] + ["connection: close"]
            self.transport.write("\r\n".join([*head, "", ""]).encode() + body)
        self.transport.close()


def guarded(limits: Limits) -> type[GuardedProtocol]:
    return type("GuardedProtocol", (GuardedProtocol,), {"limits": limits})
