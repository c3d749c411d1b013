"""The bodies of answers of HTTP/1.1, and the events in them: bytes in, bytes out, without a socket."""

from __future__ import annotations


class HttpError(Exception):
    """The server did not answer, or what it said is no HTTP."""


class Chunked:
    """Takes the bytes of a chunked body in pieces that are cut anywhere, and gives those of its content."""

    def __init__(self) -> None:
        self._rest = b""
        self._left = 0  # bytes of the chunk that are still to come, its line end included
        self._is_in_trailers = False
        self.is_over = False

    def feed(self, data: bytes) -> bytes:
        data, self._rest, found, at = self._rest + data, b"", [], 0
        while at < len(data) and not self.is_over:
            if self._left:
                part = data[at : at + self._left]
                at += len(part)
                content = max(self._left - 2, 0)
                self._left -= len(part)
                found.append(part[:content])
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                self._rest = data[at:]
                break
            line, at = data[at:end], end + 2
            if self._is_in_trailers:
                self.is_over = not line
                continue
            try:
                size = int(line.partition(b";")[0], 16)
            except ValueError as error:
                raise HttpError(f"{line[:40]!r} is no size of a chunk") from error
            self._is_in_trailers = not size
            self._left = size + 2 if size else 0
        return found[0] if len(found) == 1 else b"".join(found)


class Measured:
    """A body whose length was told."""

    def __init__(self, length: int) -> None:
        self._left = length

    @property
    def is_over(self) -> bool:
        return self._left <= 0

    def feed(self, data: bytes) -> bytes:
        self._left -= len(data)
        return data


class Open:
    """A body that ends with its connection."""

    is_over = False

    def feed(self, data: bytes) -> bytes:
        return data


class Events:
    """Takes the text of server-sent events in pieces that are cut anywhere, and gives the data of each event."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        data = self._rest + data
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        *whole, self._rest = data.split(b"\n\n")
        return [found for one in whole if (found := _data(one)) is not None]


def _data(event: bytes) -> bytes | None:
    """None of a comment, or an event without data."""
    if event.startswith(b"data: ") and b"\n" not in event:
        return event[6:]
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None
