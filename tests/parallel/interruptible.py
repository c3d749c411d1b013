"""A command that Ctrl-C interrupts, also where the tests run in the background: a shell has their children ignore it then."""

from __future__ import annotations

import sys

START = (
    "import runpy, signal, sys\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "del sys.argv[0]\n"
    "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)\n"
)


def interruptible(module: str, *arguments: str) -> list[str]:
    """`python -m module arguments`."""
    return [sys.executable, "-c", START, module, *arguments]
