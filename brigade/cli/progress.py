"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time

PLAIN_EVERY = 5.0  # seconds between plain lines


class Progress:
    """Called with (done, total); shows nothing for work that ends within a second."""

    def __init__(self, what: str) -> None:
        self._what, self._begun = what, time.monotonic()
        self._shown = self._begun
        self._bar = None
        self._task = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._begun < 1.0:
            return
        if sys.stderr.isatty():
            self._draw(done, total)
        elif now - self._shown >= PLAIN_EVERY:
            self._shown = now
            print(f"{self._what}: {done} of {total}", file=sys.stderr, flush=True)

    def _draw(self, done: int, total: int) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import Progress as Bar

            self._bar = Bar(console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=total)
        self._bar.update(self._task, completed=done, total=total)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
