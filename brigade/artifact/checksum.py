"""Checksums of large files: CRC-32 of every few megabytes, so that all cores share the work and damage has a place."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

CHUNK = 4 << 20


def chunk_checksums(data: memoryview, chunk: int = CHUNK) -> tuple[int, ...]:
    return tuple(_each(data, chunk, range(_count(len(data), chunk))))


def damaged_chunk(
    data: memoryview, chunk: int, expected: Sequence[int], progress: Callable[[int], None] | None = None
) -> int | None:
    """The first chunk whose bytes are not those that were written."""
    if len(expected) != _count(len(data), chunk):
        return min(len(expected), _count(len(data), chunk))
    found = _each(data, chunk, range(len(expected)), progress)
    return next((i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b), None)


def _count(size: int, chunk: int) -> int:
    return -(-size // chunk)


def _each(data: memoryview, chunk: int, numbers: range, progress: Callable[[int], None] | None = None) -> list[int]:
    found = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        # The interpreter's lock is free while a chunk is summed.
        for number, one in zip(numbers, pool.map(lambda n: zlib.crc32(data[n * chunk : (n + 1) * chunk]), numbers), strict=True):
            found.append(one)
            if progress is not None:
                progress(min(chunk, len(data) - number * chunk))
    return found
