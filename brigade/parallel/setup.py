"""What all ranks know before they begin. The leader decides it; every rank computes the same from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from brigade.backends.cpu.library import find_kernels
from brigade.errors import ConfigError
from brigade.mesh import Mesh
from brigade.parallel.memory import Places, is_within, streams

Ways = Literal["auto", "shared", "group"]
SPINS = 2000  # some tens of microseconds: an exchange follows the last one faster than a process falls asleep


@dataclass(frozen=True)
class Setup:
    """`hosts[r]`: the first rank of the host that rank r is on. `device`: what the models compute on."""

    mesh: Mesh
    hosts: tuple[int, ...]
    exchange: Ways = "auto"
    device: str = "cpu"
    rank_timeout: float = 60.0
    max_rows_bytes: int = 1 << 20
    spins: int = 0
    leader: int = 0  # its process
    has_kernels: bool = field(default_factory=lambda: find_kernels() is not None)

    def __post_init__(self) -> None:
        if self.exchange not in ("auto", "shared", "group"):
            raise ConfigError(f"exchange is {self.exchange!r}; choose auto, shared or group")
        if not self.rank_timeout > 0:
            raise ConfigError(f"rank timeout is {self.rank_timeout}; give seconds above 0")
        if self.exchange == "shared":
            self._check_shared()

    def _check_shared(self) -> None:
        reason = None
        if not self.has_kernels:
            reason = "the C++ kernels are not built"
        elif self.device != "cpu":
            reason = f"the models compute on {self.device}"
        for first in range(0, self.mesh.world, self.mesh.tp):
            group = self.mesh.group(first)
            if len({self.hosts[rank] for rank in group}) > 1:
                reason = f"ranks {group[0]} to {group[-1]}, which share matrices, are not on one host"
        if reason:
            raise ConfigError(f"exchange 'shared' is not possible: {reason}; choose auto or group")

    def here(self, rank: int) -> list[int]:
        """The ranks of this rank's host."""
        return [other for other in range(self.mesh.world) if self.hosts[other] == self.hosts[rank]]

    def shares_memory(self, rank: int, others: Sequence[int]) -> bool:
        """Whether this rank speaks to those of its own host in shared memory."""
        return self.exchange != "group" and self.has_kernels and is_within(others, self.here(rank))

    def shares_slots(self, rank: int) -> bool:
        """Whether this rank's group adds its numbers in shared memory."""
        return self.device == "cpu" and self.shares_memory(rank, self.mesh.group(rank))

    def needs_streams_of_group(self) -> bool:
        return not all(self.shares_memory(s.writer, (s.writer, s.reader)) for s in streams(self.mesh))

    def needs_store(self) -> bool:
        """Process groups meet at a store, and hosts tell each other by it how they are."""
        slots = self.mesh.tp == 1 or all(self.shares_slots(rank) for rank in range(self.mesh.world))
        return len(set(self.hosts)) > 1 or not slots or self.needs_streams_of_group()

    def places(self, rank: int, board_bytes: int) -> Places:
        return Places(self.mesh, self.here(rank), 2 * self.max_rows_bytes, board_bytes)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Setup:
        given = json.loads(text)
        mesh = given.pop("mesh")
        stages = tuple((first, last) for first, last in mesh.pop("stages"))
        return cls(Mesh(**mesh, stages=stages), tuple(given.pop("hosts")), **given)
