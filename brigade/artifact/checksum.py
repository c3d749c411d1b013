"""Checksums of arrays in files: CRC-32C of pieces that end where a rank's part can end, so that a rank proves what it takes and no
more. All threads share the work, and damage has a place."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

from brigade.artifact.manifest import DIGITS, MatrixEntry, Span
from brigade.backends.cpu.library import kernels
from brigade.mesh import PANEL, Run

PIECE = 1 << 20  # bytes, at most, where a part could end after fewer
RANKS = 8  # the most among which a matrix is cut
TOGETHER = 16  # pieces that are one task of a thread


@dataclass(frozen=True, slots=True)
class Piece:
    """`runs` runs of `bytes`, `stride` apart, the first of them at `offset`."""

    file: str
    offset: int
    bytes: int
    stride: int
    runs: int
    sum: int | None = None

    @property
    def end(self) -> int:
        return self.offset + (self.runs - 1) * self.stride + self.bytes

    @property
    def size(self) -> int:
        return self.runs * self.bytes


def pieces_of(span: Span, rows: Sequence[Run] | None = None, blocks: Run | None = None) -> Iterator[Piece]:
    """All of an array, or those that hold some of its rows, or of their blocks."""
    row = span.bytes // span.rows
    each = row // span.blocks
    first_block, last_block = (0, span.blocks) if blocks is None or span.blocks == 1 else blocks
    runs = [(0, span.rows)] if rows is None or span.rows == 1 else rows
    for group in sorted({group for first, last in runs for group in range(first // span.step, -(-last // span.step))}):
        first = group * span.step
        count = min(span.step, span.rows - first)
        for block in range(first_block, last_block):
            at, place = span.offset + first * row + block * each, (group * span.blocks + block) * DIGITS
            known = int(span.sums[place : place + DIGITS], 16) if span.sums else None
            if span.blocks == 1:
                yield Piece(span.file, at, count * row, count * row, 1, known)
            else:
                yield Piece(span.file, at, each, row, count, known)


def checksums(
    pieces: Sequence[Piece], base: Callable[[str], int], before: Callable[[int], None] | None = None
) -> Iterator[tuple[Piece, int]]:
    """Each piece with the checksum of what lies there. `base`: where in memory a file begins. `before` is told the number of each
    piece before it is read."""
    kernel = kernels().br_checksum

    def summed(first: int) -> list[int]:
        found = []
        for number in range(first, min(first + TOGETHER, len(pieces))):
            if before is not None:
                before(number)
            piece = pieces[number]
            found.append(kernel(ctypes.c_void_p(base(piece.file) + piece.offset), piece.bytes, piece.stride, piece.runs))
        return found

    with ThreadPoolExecutor(max(kernels().br_pool_size(), 1)) as pool:
        found = pool.map(summed, range(0, len(pieces), TOGETHER))
        yield from zip(pieces, chain.from_iterable(found), strict=True)


def written(sums: Sequence[int]) -> str:
    return "".join(f"{one:0{DIGITS}x}" for one in sums)


def steps_of(entry: MatrixEntry, size: int, blocks: int) -> int:
    """How many panels of an array go into a piece. Where K is cut, into `blocks` blocks, any number, since every rank takes all
    panels; elsewhere as many as no cut between ranks can part."""
    panels = entry.panels
    fitting = max(PIECE * panels * blocks // max(size, 1), 1)
    if entry.tree:
        return min(fitting, panels)
    unit = panels // RANKS if panels % RANKS == 0 else 1
    if entry.rows:  # whole heads
        unit = entry.head // PANEL if entry.head % PANEL == 0 else 1
    return max(step for step in range(1, min(unit, fitting) + 1) if unit % step == 0)


def table_step(rows: int) -> int:
    """Of a table: the borders of a vocabulary are multiples of a panel, unless it is small (`mesh.vocabulary_borders`)."""
    return PANEL if rows >= 2 * PANEL * RANKS else 1
