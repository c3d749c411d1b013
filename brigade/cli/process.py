"""The command as a process of its own: from its first moment on, a signal that ends it leaves one line and no traceback.

A `KeyboardInterrupt` is lost where it is raised while torch is imported: torch's C++ code imports numpy and clears any error of
that, or numpy is left half made and its next import fails. Nothing has to be cleaned up then, so a signal that comes during an
import before torch is whole ends the process at once. A later one is raised, and whoever holds something lets go of it.

Only the standard library's smallest modules are imported above, since a signal before `as_process` has its line from Python.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ended(BaseException):
    """SIGTERM or SIGHUP. It goes the way of `KeyboardInterrupt`, which for a command may mean less than the end: see `chat`."""

    def __init__(self, number: int) -> None:
        super().__init__(_words(number))
        self.code = 128 + number


def as_process() -> int:
    """With `--leave-with-stdin` whoever started this process speaks for it, so the signals are as they were."""
    if "--leave-with-stdin" not in sys.argv:
        _take_signals()
    from brigade import collector

    collector.rest()
    from brigade.cli.main import main

    try:
        code = main()
        if code in (128 + one for one in ENDING):
            # Ranks are ended behind this, which takes a moment: a second Ctrl-C would only cut that short.
            for one in ENDING:
                signal.signal(one, signal.SIG_IGN)
        return code
    finally:
        collector.leave_out()


def _take_signals() -> None:
    for one in ENDING:
        if signal.getsignal(one) is not signal.SIG_IGN:  # as under nohup, or behind & in a script
            signal.signal(one, _end)


def _end(number: int, frame: FrameType | None) -> None:
    if _is_loading(frame):
        os.write(2, f"brigade: {_words(number)}\n".encode())
        os._exit(128 + number)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Ended(number)


def _is_loading(frame: FrameType | None) -> bool:
    torch = sys.modules.get("torch")
    if torch is not None and not getattr(torch.__spec__, "_initializing", False):
        return False
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _words(number: int) -> str:
    return "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"


if __name__ == "__main__":
    sys.exit(as_process())
