"""The application: which address is answered by what, who may ask, and what is noted of it."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any
from uuid import uuid4

from brigade.errors import in_one_line
from brigade.serve.addresses import nothing_at
from brigade.serve.api_keys import ApiKeys, Caller
from brigade.serve.chat import read_chat
from brigade.serve.completions import read_completion
from brigade.serve.desk import CUT_OFF, RETRY, Desk
from brigade.serve.errors import ApiError, as_api_error, told_by
from brigade.serve.exchange import (
    JSON,
    ClientGone,
    Receive,
    Send,
    answer_stream,
    answer_whole,
    drop_rest,
    encode,
    read_all,
    send_bytes,
    send_error,
    send_json,
    while_heard,
)  # fmt: skip
from brigade.serve.fields import read_json
from brigade.serve.health import Health
from brigade.serve.job import Answer, Object
from brigade.serve.limits import Limits
from brigade.serve.metrics import TYPE, Metrics
from brigade.serve.openapi import document
from brigade.serve.record import Record
from brigade.serve.refusals import Refusals
from brigade.serve.served import Served
from brigade.serve.size import check_size
from brigade.serve.tokens import detokenize, tokenize
from brigade.serve.web_pages import allows, check_page

REQUEST_ID = re.compile(rb"[A-Za-z0-9_.:-]{1,128}")
OPEN_TO_ALL = ("/health", "/ready", "/version")  # without a key
ALLOWED = b"authorization, content-type, x-request-id"  # headers of pages that do not say which they will send
LARGE = 8 << 10  # bytes of a body from which it is read on another thread

JOBS: dict[str, Callable[[Mapping[str, Any], Served], Answer]] = {
    "/v1/completions": read_completion, "/v1/chat/completions": read_chat,
}  # fmt: skip
QUESTIONS: dict[str, Callable[[Mapping[str, Any], Served], Object]] = {"/tokenize": tokenize, "/detokenize": detokenize}


@dataclass(eq=False)
class App:
    """An ASGI application. `log` is called with one object for each request; None: no log."""

    served: Served
    desk: Desk
    health: Health
    keys: ApiKeys = field(default_factory=ApiKeys)
    limits: Limits = field(default_factory=Limits)
    origins: Sequence[str] = ()  # of pages in a browser that may ask
    hosts: Sequence[str] | None = None  # names by which the server may be asked; None: any
    log: Callable[[Object], None] | None = None

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.served.name, self.health.state)
        self.refusals = Refusals(self.metrics.refused, lambda line: None if self.log is None else self.log(line))

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        record = self._record(scope, headers)
        try:
            await self._answer(scope, headers, record, receive, self._noted(send, record, headers))
        except ClientGone:
            record.is_gone = True
        finally:
            self.metrics.ended(record)
            if record.cause is not None:
                _tell(record)
            if self.log is not None:
                self.log(record.line())
        if record.leaves_unread:
            await drop_rest(receive, send)

    async def _answer(self, scope: Any, headers: dict[bytes, bytes], record: Record, receive: Receive, send: Send) -> None:
        try:
            check_page(headers, self.origins, self.hosts)
            if scope["method"] == "OPTIONS" and self.origins:
                return await send_bytes(send, 204, b"", [])
            caller = Caller() if scope["path"] in OPEN_TO_ALL else self.keys.caller(headers.get(b"authorization"))
            record.key = caller.name
            await self._route(scope, headers, caller, record, receive, send)
        except ClientGone:
            raise
        except asyncio.CancelledError:  # the server ends before this request did
            found = ApiError(503, CUT_OFF, None, "draining", RETRY)
            record.failed(found, None)
            if record.status is None:
                await send_error(send, found)
            raise
        except Exception as error:
            found = as_api_error(error)
            record.failed(found, error)
            if record.status is None:
                record.leaves_unread = not record.is_read and _has_body(headers) and found.status != 408
                await send_error(send, found, record.leaves_unread)

    async def _route(
        self, scope: Any, headers: dict[bytes, bytes], caller: Caller, record: Record, receive: Receive, send: Send
    ) -> None:
        path, method = scope["path"], scope["method"]
        if path in JOBS or path in QUESTIONS:
            _check_method(method, "POST", path)
            self.desk.check_open()
            data = await read_all(receive, headers, self.limits)
            record.is_read = True
            if path in JOBS:
                return await self._run(JOBS[path], data, caller, record, receive, send)
            return await send_json(send, 200, await asyncio.to_thread(lambda: QUESTIONS[path](read_json(data), self.served)))
        read = self._pages().get(path)
        if read is None and path.startswith("/v1/models/"):
            read = lambda: self._model(path.removeprefix("/v1/models/"))  # noqa: E731
        if read is None:
            raise nothing_at(path, [*JOBS, *QUESTIONS, *self._pages()])
        _check_method(method, "GET", path)
        found = read()
        if isinstance(found, bytes):
            kind = JSON if path == "/openapi.json" else (b"content-type", TYPE.encode())
            return await send_bytes(send, 200, found, [kind])
        await send_json(send, 200, found)

    async def _run(
        self, read: Callable[[Mapping[str, Any], Served], Answer], data: bytes, caller: Caller, record: Record, receive: Receive,
        send: Send,
    ) -> None:  # fmt: skip
        def translate() -> Answer:
            answer = read(read_json(data), self.served)
            with told_by(answer.job.names):
                check_size(answer.job, self.served)
            return answer

        answer = await asyncio.to_thread(translate) if len(data) > LARGE else translate()
        if caller.salt is not None:
            salt = caller.salted(answer.job.params.get("cache_salt"))
            answer.job = replace(answer.job, params={**answer.job.params, "cache_salt": salt})
        record.model, record.streams = self.served.name, answer.job.streams
        if answer.job.streams:
            work = answer_stream(answer, self.desk, record, send, len(data) > LARGE)
        else:
            work = answer_whole(answer, self.desk, record, send, len(data) > LARGE)
        with told_by(answer.job.names):
            await while_heard(work, receive)

    def _pages(self) -> dict[str, Callable[[], Object | bytes]]:
        return {
            "/health": self.health.check, "/ready": self._ready, "/version": _version, "/metrics": self.metrics.text,
            "/v1/models": lambda: {"object": "list", "data": [self._model(name) for name in self.served.names]},
            "/openapi.json": lambda: _document(len(self.keys) > 0),
        }  # fmt: skip

    def _ready(self) -> Object:
        self.desk.check_open()
        return self.health.check()

    def _model(self, name: str) -> Object:
        self.served.check_name(name)
        return {
            "id": name, "object": "model", "created": self.served.created, "owned_by": "brigade", "root": self.served.root,
            "max_model_len": self.served.positions, "vocab_size": self.served.vocab_size,
            "system_fingerprint": self.served.fingerprint,
        }  # fmt: skip

    def _record(self, scope: Any, headers: dict[bytes, bytes]) -> Record:
        given = headers.get(b"x-request-id", b"")
        name = given.decode() if REQUEST_ID.fullmatch(given) else f"req-{uuid4().hex}"
        client = "" if scope.get("client") is None else str(scope["client"][0])
        return Record(name, self.metrics, scope["method"], scope["path"][:200], client)

    def _noted(self, send: Send, record: Record, headers: dict[bytes, bytes]) -> Send:
        """Sends with what every answer has: the request's id, and leave for pages of other origins."""
        more = [(b"x-request-id", record.id.encode())]
        origin = headers.get(b"origin", b"").decode("latin-1")
        if self.origins:
            more.append((b"vary", b"Origin"))
        if origin and allows(origin, self.origins):
            more += [
                (b"access-control-allow-origin", origin.encode("latin-1")), (b"access-control-max-age", b"600"),
                (b"access-control-allow-headers", headers.get(b"access-control-request-headers", ALLOWED)),
                (b"access-control-allow-methods", b"GET, POST, OPTIONS"), (b"access-control-expose-headers", b"x-request-id"),
            ]  # fmt: skip

        async def noted(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [*message["headers"], *more]
            await send(message)

        return noted


def _has_body(headers: dict[bytes, bytes]) -> bool:
    return headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers


def _check_method(method: str, allowed: str, path: str) -> None:
    if method != allowed and not (allowed == "GET" and method == "HEAD"):
        allow = "GET, HEAD" if allowed == "GET" else allowed
        raise ApiError(405, f"{path} is asked with {allowed}, not with {method}", code="method_not_allowed", allow=allow)


@cache
def _document(needs_key: bool) -> bytes:
    return encode(document(needs_key, OPEN_TO_ALL))


def _version() -> Object:
    from brigade import __version__

    return {"version": __version__}


def _tell(record: Record) -> None:
    """An error of our own, with all that is needed to mend it."""
    import traceback

    assert record.cause is not None
    print(f"brigade: request {record.id} failed: {in_one_line(record.cause)}", file=sys.stderr)
    traceback.print_exception(record.cause, file=sys.stderr)


def json_line(found: Object) -> None:
    with suppress(OSError):  # whoever read it is gone, which is no reason to answer nobody
        print(json.dumps(found, ensure_ascii=False), file=sys.stderr, flush=True)
