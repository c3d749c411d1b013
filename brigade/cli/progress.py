"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time

PLAIN_EVERY = 5.0  # seconds between plain lines


class Progress:
    """Called with (done, total); shows nothing for work that ends within a second."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._bar = None
        self._task = None
        self._begin()

    def _begin(self) -> None:
        self._begun = self._shown = time.monotonic()
        self._said = self._known = (0, 0)  # done and total: of the last plain line, and of the last call

    def __call__(self, done: int, total: int) -> None:
        now, self._known = time.monotonic(), (done, total)
        if now - self._begun < 1.0:
            return
        if sys.stderr.isatty():
            self._draw(done, total)
        elif now - self._shown >= PLAIN_EVERY and self._known != self._said:
            self._shown = now
            self._say()

    def _draw(self, done: int, total: int) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import Progress as Bar

            self._bar = Bar(console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=total)
        self._bar.update(self._task, completed=done, total=total)

    def _say(self) -> None:
        self._said = self._known
        print(f"{self._what}: {self._known[0]} of {self._known[1]}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Whoever was told how it goes is told how it ended."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elif self._said not in ((0, 0), self._known):
            self._say()
        self._begin()  # it may be used once more
