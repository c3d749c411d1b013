"""A TLS connection: until its handshake is done it counts as any other, and has as long as headers have. After that, its protocol
sees what a client has not taken yet as it does without TLS."""

from __future__ import annotations

import asyncio
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable
from pathlib import Path

from brigade.errors import in_one_line
from brigade.serve.protocol import GuardedProtocol


def tls_context(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """Of a key without a password: nobody could be asked for it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key, password=_no_password)
    return context


def _reason(error: BaseException | None) -> str:
    """Words of OpenSSL and of asyncio, in which nothing is that a client made up."""
    if error is None or isinstance(error, ConnectionResetError):
        return "the client left before it was done"
    if isinstance(error, ssl.SSLError) and error.reason is not None:
        return error.reason.lower().replace("_", " ")
    return "it took too long" if isinstance(error, ConnectionAbortedError) else in_one_line(error)


def _no_password() -> str:
    raise ValueError("the key has a password, and nobody can be asked for it")


def behind_tls(protocol: type[GuardedProtocol], context: ssl.SSLContext) -> Callable[..., Handshake]:
    """Makes what asyncio makes for a server with TLS, with a count."""
    return lambda **given: Handshake(protocol(**given), context)


class Handshake(SSLProtocol):
    """What asyncio itself puts between a socket and a protocol, in the set of open connections as long as `inner` is not: that one
    hears of its connection when the handshake is done, and would else not be counted before."""

    unsent = 0  # of answers, as `GuardedProtocol.unsent`: there is none before the handshake is done

    def __init__(self, inner: GuardedProtocol, context: ssl.SSLContext) -> None:
        super().__init__(inner.loop, inner, context, None, server_side=True, ssl_handshake_timeout=inner.limits.header_seconds)  # type: ignore[no-untyped-call]
        self._inner, self._raw, self._client = inner, None, ""
        inner.handshake = self

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._raw, self._client = transport, str((transport.get_extra_info("peername") or ("",))[0])
        self._inner.connections.add(self)  # type: ignore[arg-type]
        # What is encrypted waits in the transport below: from its first byte on `pause_writing` is called here, so that each time
        # it is empty again the protocol above hears of it.
        transport.set_write_buffer_limits(high=0)
        super().connection_made(transport)
        if len(self._inner.connections) > self._inner.limits.connections:
            self._inner.refusals.note(self._client, "busy")
            self._inner.connections.discard(self)  # type: ignore[arg-type]
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self._inner.connections:  # and no request was ever possible
            self._inner.connections.discard(self)  # type: ignore[arg-type]
            self._inner.refusals.note(self._client, "tls", detail=_reason(exc))
        super().connection_lost(exc)

    def _get_write_buffer_size(self) -> int:
        """asyncio's own leaves out what waits below, which is nearly all. From this number it also decides when the protocol above
        may write, and that one whether its client reads."""
        below = 0 if self._raw is None else self._raw.get_write_buffer_size()
        return super()._get_write_buffer_size() + below  # type: ignore[misc, no-any-return]

    def _check_shutdown_timeout(self) -> None:
        """The time for the last words of TLS is over. A client that still reads an answer cannot have said its own: it is waited
        for, and the protocol above gives up whoever does not read."""
        if self._get_write_buffer_size():
            self._shutdown_timeout_handle = self._inner.loop.call_later(self._ssl_shutdown_timeout, self._check_shutdown_timeout)
        else:
            super()._check_shutdown_timeout()  # type: ignore[misc]

    def shutdown(self) -> None:
        """The server ends."""
        if self._raw is not None:
            self._raw.abort()
