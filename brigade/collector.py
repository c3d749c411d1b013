"""Python's garbage collector, kept out of the start and the end of a process that is Brigade's own.

Importing torch makes a million objects that stay until the process ends. The collector walks them all several times while they are
made, and once more at the very end: a third of the time that a short command takes. So it rests until the modules are there, and
what they made is then left out of every later collection, also of those that would come between two steps of an engine.

A process of somebody else's, which imports Brigade, gets its collector back as it was: it rests for the import alone, nothing is
left out, and `resume` does nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_resting = False


def rest() -> None:
    """At the start of a process of our own, before torch is imported."""
    global _resting
    _resting = True
    gc.disable()


def resume() -> None:
    """When the modules are there, and before the long work begins. `open_model` does this for every command that works with a
    model; any other command calls it itself."""
    global _resting
    if _resting:
        _resting = False
        leave_out()
        gc.enable()


@contextmanager
def resting() -> Iterator[None]:
    """While modules are imported into a process of somebody else's."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def leave_out() -> None:
    """What is there now stays until the process ends: no collection looks at it, the last one included."""
    gc.freeze()
