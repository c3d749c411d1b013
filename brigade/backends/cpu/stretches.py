"""Bytes of a file that do not lie together, read into memory one stretch after the other."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from brigade.backends.cpu.library import kernels
from brigade.errors import ConfigError


def read_stretches(file: int, starts: np.ndarray, length: int, into: np.ndarray) -> bool:
    """`into` has `length` bytes for each of `starts`. False where the file ends before that; an `OSError` where it cannot be read.
    Without the kernels one call of Python reads each stretch, which takes longer than the bytes of a short one."""
    assert into.nbytes == len(starts) * length and into.flags.c_contiguous
    native = _native()
    if native is None:
        return _in_python(file, starts, length, memoryview(into))
    places = np.ascontiguousarray(starts, np.int64)
    count = native.br_read(file, places.ctypes.data, len(places), length, into.ctypes.data)
    if count < 0:
        raise OSError(-count, os.strerror(-count))
    return count == into.nbytes


def _native() -> Any:
    """The kernels, or None where there are none that fit: a file can be read all the same."""
    try:
        return kernels()
    except ConfigError:
        return None


def _in_python(file: int, starts: np.ndarray, length: int, into: memoryview) -> bool:
    done = 0
    for start in starts.tolist():
        count = 0
        while count < length:  # a system reads at most 2 GiB at once
            more = os.preadv(file, (into[done + count : done + length],), start + count)
            if not more:
                return False
            count += more
        done += length
    return True
