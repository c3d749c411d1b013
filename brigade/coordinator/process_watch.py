"""Which replicas run on this machine, so that the end of their process is seen at once and not by their silence."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from pathlib import Path

import zmq


@cache
def this_machine() -> str:
    """Where a process number means the same process: this boot, and this namespace of process numbers. Empty where that is not
    known."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


class ProcessWatch:
    """One file handle for each process, however often it registers."""

    def __init__(self, poller: zmq.Poller) -> None:
        self._poller = poller
        self._handles: dict[int, int] = {}  # by process
        self._addresses: dict[int, bytes] = {}  # by handle: where its replica is known now

    def watch(self, process: int, machine: str, address: bytes) -> bool:
        """False: it has ended already. One that cannot be watched from here is taken for alive: its silence will tell."""
        if process <= 0 or not machine or machine != this_machine():
            return True
        handle = self._handles.get(process)
        if handle is None:
            try:
                handle = os.pidfd_open(process)
            except ProcessLookupError:
                return False
            except (OSError, AttributeError, OverflowError):
                return True
            self._handles[process] = handle
            self._poller.register(handle, zmq.POLLIN)
        self._addresses[handle] = address
        return True

    def ended(self, handle: int) -> bytes | None:
        """The address of the replica whose process this handle is of, which has ended."""
        address = self._addresses.pop(handle, None)
        if address is not None:
            self._poller.unregister(handle)
            self._handles = {process: one for process, one in self._handles.items() if one != handle}
            os.close(handle)
        return address

    def close(self) -> None:
        for handle in self._handles.values():
            with suppress(OSError):
                os.close(handle)
        self._handles.clear()
        self._addresses.clear()
