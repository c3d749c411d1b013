"""The sockets and the end: listens, and on SIGTERM lets what runs come to its end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from brigade.errors import ConfigError
from brigade.serve.app import App
from brigade.serve.handshake import behind_tls, tls_context
from brigade.serve.protocol import guarded

BACKLOG = 2048
UNSENT = 256 << 10  # bytes that the system holds for one connection: with more, it would take long to see whether a client reads


def bind(host: str, port: int) -> socket.socket:
    """Taken before a model is loaded, so that an address that is not free is said at once. Nobody can connect until it listens."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port is {port}; give one from 1 to 65535, or 0 for a free one")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise ConfigError(f"--host {host} is no address of this machine ({error.strerror}); give one, such as 127.0.0.1") from error
    made = socket.socket(found[0], socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named, so that asyncio sends small pieces at once
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNSENT)  # connections have it of the listener
    try:
        made.bind(found[4])
    except OSError as error:
        made.close()
        raise ConfigError(f"{host}:{port} cannot be listened at ({error}); give another --port, or 0 for a free one") from error
    return made


def check_certificate(certificate: Path | None, key: Path | None) -> None:
    """Before a model is loaded too."""
    if certificate is None:
        return
    try:
        tls_context(certificate, key)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the certificate {certificate} or its key {key} cannot be used ({error}); give PEM files") from error


class Server(uvicorn.Server):
    """The first SIGTERM or SIGINT: running requests go on to their end, and new ones are sent away. The second ends at once."""

    def __init__(self, app: App, certificate: Path | None = None, key: Path | None = None) -> None:
        limits = app.limits
        protocol: Any = guarded(limits, app.refusals)
        if certificate is not None:
            protocol = behind_tls(protocol, tls_context(certificate, key))
        config = uvicorn.Config(
            app, http=protocol, ws="none", lifespan="off", log_config=None, log_level="critical", access_log=False,
            server_header=False, timeout_keep_alive=limits.keep_alive_seconds, backlog=BACKLOG, proxy_headers=False,
            timeout_graceful_shutdown=5,
        )  # fmt: skip
        super().__init__(config)
        self._brigade = app
        self._draining: asyncio.Task[None] | None = None
        self._was_told = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._loop is None or self._was_told:
            self.should_exit = self.force_exit = True
            return
        self._was_told = True
        self._loop.call_soon_threadsafe(self._begin_to_drain, signal.Signals(sig).name)

    def _begin_to_drain(self, name: str) -> None:
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._drain(name))

    async def _drain(self, name: str) -> None:
        desk, seconds = self._brigade.desk, self._brigade.limits.drain_seconds
        if desk.open:
            print(f"brigade: {name}: {desk.open} requests go on to their end; once more ends at once", file=sys.stderr)
        if not await desk.drain(seconds):
            print(f"brigade: {desk.open} requests were not over after {seconds:g} s and are cut off", file=sys.stderr)
            self.force_exit = True
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self):
        """uvicorn's own raises the signals once more at its end, which would cut off whoever cleans up behind it."""
        before = {one: signal.signal(one, self.handle_exit) for one in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)
