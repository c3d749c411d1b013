"""What the protocol refuses before there is a request: counted, and in the log, as far as no flood of it fills a disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

LINES = 10  # in a second; what is beyond them is a number in the next line


class Refusals:
    """`count` is called with the reason of each, `log` with the lines."""

    def __init__(
        self, count: Callable[[str], None], log: Callable[[dict[str, Any]], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._count, self._log, self._clock = count, log, clock
        self._since, self._lines, self._unlogged = clock(), 0, 0

    def note(self, client: str, reason: str, status: int | None = None, detail: str | None = None) -> None:
        """`client`: its address; `reason`: one of `metrics.REASONS`, and `detail` what it was in words. Nothing that the client
        made up is in the line."""
        self._count(reason)
        now = self._clock()
        if now - self._since >= 1.0:
            self._since, self._lines = now, 0
        if self._lines >= LINES:
            self._unlogged += 1
            return
        line = {"client": client, "status": status, "error": reason, "detail": detail, "unlogged": self._unlogged or None}
        self._lines, self._unlogged = self._lines + 1, 0
        self._log({name: value for name, value in line.items() if value is not None})
