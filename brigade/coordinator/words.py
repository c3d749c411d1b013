"""A line for whoever watches. Nobody may be there: that ends nothing."""

from __future__ import annotations

import sys
from contextlib import suppress


def say(line: str) -> None:
    with suppress(OSError, ValueError):  # the terminal has gone, or the pipe is closed
        print(line, file=sys.stderr, flush=True)
