"""Ranks as threads of one process: what they say to each other goes through the same memory and the same process groups."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from torch.distributed import HashStore

from brigade.mesh import Mesh
from brigade.parallel.board import Board
from brigade.parallel.links import Links, connect
from brigade.parallel.memory import HostMemory
from brigade.parallel.setup import Setup

T = TypeVar("T")


class Gone(RuntimeError):
    """What a rank here raises that waited in vain."""


def make_links(mesh: Mesh, exchange: str, spins: int = 0, rows_bytes: int = 1 << 14) -> list[Links]:
    setup = Setup(mesh, (0,) * mesh.world, exchange, max_rows_bytes=rows_bytes, spins=spins)
    size = setup.places(0, Board.bytes(mesh.world)).size
    memory, store = HostMemory.make(size), HashStore()
    board = Board(memory, mesh.world)
    made = on_threads(
        mesh.world,
        lambda rank: connect(
            setup, rank, board, setup.places(rank, Board.bytes(mesh.world)), store, lambda cause: Gone(str(cause))
        ),
    )
    memory.close()
    return made


def on_threads(count: int, call: Callable[[int], T]) -> list[T]:
    """call(rank) of all ranks at once; the first error of one is raised."""
    with ThreadPoolExecutor(count) as pool:
        return [outcome.result(timeout=60) for outcome in [pool.submit(call, rank) for rank in range(count)]]
