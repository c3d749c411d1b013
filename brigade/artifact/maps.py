"""The files of weights, mapped into memory, and read ahead of whoever looks at them."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from brigade.artifact.checksum import Piece, checksums

AHEAD = 32 << 20  # bytes that the disk is asked for before they are looked at
ASKED = 128 << 10  # at once: of more the system may drop the rest
DENSE = 0.45  # from which share on, of what lies between a rank's first byte and its last; of two ranks each takes about half


class Maps:
    """The files of one artifact by name."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder, self._maps = folder, dict[str, mmap.mmap]()
        for name in names:
            with (folder / name).open("rb") as file:
                # A private map: the page cache's own pages, which nobody writes; torch asks for one that could be written.
                self._maps[name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def __getitem__(self, name: str) -> mmap.mmap:
        return self._maps[name]

    def size(self, name: str) -> int:
        """0 of a file that is not there."""
        return len(self._maps[name]) if name in self._maps else 0

    def damaged(self, pieces: Sequence[Piece], advance: Callable[[int], None]) -> Piece | None:
        """The first piece whose bytes are not those that were written. `pieces` are in the order of the files. Where they lie close
        together, the system reads on by itself: one rank was loaded twice as fast so. Elsewhere only `pieces` are asked for: a page
        that is looked at would bring its neighbours with it, which may be other ranks'."""
        bases = {name: np.frombuffer(each, np.uint8).ctypes.data for name, each in self._maps.items()}
        dense = sum(piece.size for piece in pieces) >= DENSE * _span(pieces)
        with ExitStack() as files:
            self._advise("MADV_SEQUENTIAL" if dense else "MADV_RANDOM")
            files.callback(self._advise, "MADV_NORMAL")
            opened = {} if dense else {name: files.enter_context((self._folder / name).open("rb")).fileno() for name in self._maps}
            asking, asked, bytes_asked, bytes_seen = threading.Lock(), 0, 0, 0

            def before(number: int) -> None:
                nonlocal asked, bytes_asked, bytes_seen
                with asking:
                    bytes_seen += pieces[number].size
                    while asked < len(pieces) and bytes_asked < bytes_seen + AHEAD:
                        piece, asked = pieces[asked], asked + 1
                        bytes_asked += piece.size
                        _ask(opened[piece.file], piece)

            for piece, found in checksums(pieces, bases.__getitem__, None if dense else before):
                if found != piece.sum:
                    return piece
                advance(piece.size)
        return None

    def filled(self, taken: Sequence[tuple[str, int, int]]) -> Piece | None:
        """The first place between arrays (file, first byte, end) that is no zeros."""
        for name, each in self._maps.items():
            data, at = np.frombuffer(each, np.uint8), 0
            for first, end in [*sorted((first, end) for file, first, end in taken if file == name), (data.size, data.size)]:
                if first > at and data[at:first].any():
                    return Piece(name, at, first - at, 0, 1)
                at = max(at, end)
        return None

    def _advise(self, how: str) -> None:
        if hasattr(mmap, how):
            for each in self._maps.values():
                each.madvise(getattr(mmap, how))


def _span(pieces: Sequence[Piece]) -> int:
    """From the first piece of each file to the end of its last one."""
    first, end = dict[str, int](), dict[str, int]()
    for piece in pieces:
        first.setdefault(piece.file, piece.offset)
        end[piece.file] = max(piece.end, end.get(piece.file, 0))
    return sum(end[name] - first[name] for name in first)


def _ask(file: int, piece: Piece) -> None:
    if not hasattr(os, "posix_fadvise"):
        return
    for run in range(piece.runs):
        first = piece.offset + run * piece.stride
        for at in range(first, first + piece.bytes, ASKED):
            os.posix_fadvise(file, at, min(ASKED, first + piece.bytes - at), os.POSIX_FADV_WILLNEED)
