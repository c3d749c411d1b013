"""The sockets and the end: listens, and on SIGTERM lets what runs come to its end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from brigade.coordinator.words import say
from brigade.errors import ConfigError
from brigade.serve.app import App
from brigade.serve.handshake import behind_tls, tls_context
from brigade.serve.protocol import guarded

BACKLOG = 2048
LAST_WORDS = 3  # seconds in which answers that are cut off are told so, before their connections are closed
LOOK = 0.05  # seconds between two looks whether answers are read
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
        if error.errno == errno.EADDRNOTAVAIL:
            raise ConfigError(f"--host {host} is no address of this machine; give one, such as 127.0.0.1") from error
        where = shown_address(host, port)
        raise ConfigError(f"{where} cannot be listened at ({error}); give another --port, or 0 for a free one") from error
    return made


def shown_address(host: str, port: int) -> str:
    """As URLs have it: an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Server(uvicorn.Server):
    """The first SIGTERM, SIGINT or SIGHUP: running requests go on to their end, and new ones are sent away. The second, or the
    end of `drain_seconds`: each is told that it is cut off, and has `LAST_WORDS` seconds to be told. `is_over`: true when nothing
    can be computed here any more, which ends the server in the same way."""

    def __init__(
        self, app: App, certificate: Path | None = None, key: Path | None = None, is_over: Callable[[], bool] = lambda: False
    ) -> None:
        limits = app.limits
        protocol: Any = guarded(limits, app.refusals)
        if certificate is not None:
            protocol = behind_tls(protocol, tls_context(certificate, key))
        config = uvicorn.Config(
            app, http=protocol, ws="none", lifespan="off", log_config=None, log_level="critical", access_log=False,
            server_header=False, timeout_keep_alive=limits.keep_alive_seconds, backlog=BACKLOG, proxy_headers=False,
            timeout_graceful_shutdown=LAST_WORDS,
        )  # fmt: skip
        super().__init__(config)
        self._brigade = app
        self._draining: asyncio.Task[None] | None = None
        self._told = 0  # how often
        self._is_over = is_over
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._told += 1
        if self._loop is None:
            self.should_exit = True
        elif self._told <= 2 and not self._loop.is_closed():
            first = self._told == 1
            self._loop.call_soon_threadsafe(*(self._begin_to_drain, signal.Signals(sig).name) if first else (self._cut_off,))
        else:
            self.force_exit = True

    def _begin_to_drain(self, name: str) -> None:
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._drain(name))

    async def _drain(self, name: str) -> None:
        desk, seconds = self._brigade.desk, self._brigade.limits.drain_seconds
        until = time.monotonic() + seconds
        if desk.open:
            goes = "1 request goes on to its end" if desk.open == 1 else f"{desk.open} requests go on to their end"
            say(f"brigade: {name}: {goes}; a second signal ends at once")
        if not await desk.drain(seconds):
            were = "1 request was not over" if desk.open == 1 else f"{desk.open} requests were not over"
            say(f"brigade: {were} after {seconds:g} s; what is left is cut off")
            self._cut_off()
        elif not await self._until_sent(until):
            were = "1 answer was not read" if self._unread == 1 else f"{self._unread} answers were not read"
            say(f"brigade: {were} to the end after {seconds:g} s; what is left is cut off")
        self.should_exit = True

    @property
    def _unread(self) -> int:
        """Connections whose clients have not taken all of their answers."""
        connections: Any = self.server_state.connections
        return sum(one.unsent > 0 for one in connections)

    async def _until_sent(self, until: float) -> bool:
        """An answer is over when it is written, and its client may still be reading. Whoever takes nothing is given up by the
        protocol, so this waits for those alone who read. False where that takes longer."""
        while self._unread:
            if time.monotonic() >= until:
                return False
            await asyncio.sleep(LOOK)
        return True

    def _cut_off(self) -> None:
        self._brigade.desk.is_draining = True
        self._brigade.desk.cut_off()
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        if not self.should_exit and self._is_over():
            self._cut_off()
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def taking_signals(self) -> Iterator[None]:
        """From before somebody is told that this server is there. Its end is the end of the process: a signal that comes while that
        cleans up finds that all was said, and changes nothing, also not the exit code."""
        signals = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup, where the end of the terminal means nothing
            signals.append(signal.SIGHUP)
        for one in signals:
            signal.signal(one, self.handle_exit)
        try:
            yield
        finally:
            for one in signals:
                signal.signal(one, signal.SIG_IGN)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Not uvicorn's own, which gives them back at its end and raises them once more: see `taking_signals`."""
        yield
