"""A line for whoever watches. Nobody may be there: that ends nothing."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


def say(line: str) -> None:
    with suppress(OSError, ValueError):  # the terminal has gone, or the pipe is closed
        print(line, file=sys.stderr, flush=True)


@contextmanager
def told_if_late(words: Callable[[], str | None], seconds: float) -> Iterator[None]:
    """`words` are printed once, if what is inside takes longer; None: nothing is."""

    def tell() -> None:
        said = words()
        if said is not None:
            say(f"brigade: {said}")

    timer = threading.Timer(seconds, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
