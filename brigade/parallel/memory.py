"""The memory that the ranks of one host share: one mapping, and where in it everything lies.

The mapping is a file without a name: it is gone with the last process that has it, however that one ends. Whoever knows the mesh
and the ranks of the host computes the same places, so nothing but the file itself has to be handed on.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from brigade.errors import ConfigError
from brigade.mesh import Mesh

LINE, PAGE = 64, 4096
SLOT_BYTES = 1 << 18  # of one slot: what is larger goes in pieces that stay in a cache
MESSAGE_BYTES = 1 << 20  # of a stream of orders or replies; `Leader.send` keeps to half of it
LARGEST_RING = 1 << 26


@dataclass(frozen=True)
class Stream:
    """One direction between two ranks. `kind` is "orders", "replies" or "rows"."""

    kind: str
    writer: int
    reader: int


def streams(mesh: Mesh) -> list[Stream]:
    """All streams of a mesh. The leader is rank 0; the ranks of a stage hand on to those of the next with the same share."""
    others = range(1, mesh.world)
    found = [Stream("orders", 0, rank) for rank in others] + [Stream("replies", rank, 0) for rank in others]
    for stage in range(mesh.pp - 1):
        found += [Stream("rows", mesh.rank(stage, share), mesh.rank(stage + 1, share)) for share in range(mesh.tp)]
    return found


def is_within(ranks: Sequence[int], here: Collection[int]) -> bool:
    return all(rank in here for rank in ranks)


@dataclass
class Places:
    """Where things lie in the memory of the host on which the ranks `here` are. The board is at its beginning."""

    mesh: Mesh
    here: Sequence[int]
    rows_bytes: int  # of two steps between two stages
    board_bytes: int
    slots: dict[int, int] = field(default_factory=dict)  # by the first rank of a group
    rings: dict[Stream, tuple[int, int]] = field(default_factory=dict)  # place and capacity
    size: int = 0

    def __post_init__(self) -> None:
        self.size, here = self.board_bytes, frozenset(self.here)
        for first in range(0, self.mesh.world, self.mesh.tp):
            if self.mesh.tp > 1 and is_within(self.mesh.group(first), here):
                self.slots[first] = self._take(self._slots_bytes)
        for stream in streams(self.mesh):
            if is_within((stream.writer, stream.reader), here):
                capacity = self._capacity(self.rows_bytes) if stream.kind == "rows" else MESSAGE_BYTES
                self.rings[stream] = self._take(2 * LINE + capacity), capacity

    def touched(self, rank: int) -> int:
        """What a rank reads or writes of it once every ring has gone round; the rest costs that rank nothing."""
        rings = sum(2 * LINE + capacity for stream, (_, capacity) in self.rings.items() if rank in (stream.writer, stream.reader))
        return self.board_bytes + (self._slots_bytes if self.mesh.group(rank)[0] in self.slots else 0) + rings

    @property
    def _slots_bytes(self) -> int:
        return LINE + 2 * self.mesh.tp * SLOT_BYTES

    def _capacity(self, wanted: int) -> int:
        """A power of two."""
        return min(max(1 << (max(wanted, 1) - 1).bit_length(), PAGE), LARGEST_RING)

    def _take(self, size: int) -> int:
        place, self.size = self.size, self.size + -(-size // PAGE) * PAGE
        return place


class HostMemory:
    """A mapping that this process made, was given, or found at another process of its host."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.descriptor = descriptor
        self.map = mmap.mmap(descriptor, size)
        self._first = ctypes.c_char.from_buffer(self.map)

    @classmethod
    def make(cls, size: int) -> HostMemory:
        if not hasattr(os, "memfd_create"):
            raise ConfigError("several ranks need Linux, whose processes can share memory without a name; use one rank here")
        descriptor = os.memfd_create("brigade")
        os.ftruncate(descriptor, size)
        return cls(descriptor, size)

    @classmethod
    def of(cls, process: int, descriptor: int) -> HostMemory:
        """That of another process, which keeps it open under this descriptor."""
        found = os.open(f"/proc/{process}/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
        return cls(found, os.fstat(found).st_size)

    def at(self, place: int) -> int:
        """The address in this process."""
        return ctypes.addressof(self._first) + place

    def close(self) -> None:
        """The descriptor. The mapping goes with the last object that uses it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
