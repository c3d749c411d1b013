"""Leaders of the tests: in this process, or as a program of their own whose ranks a test may watch from outside."""

from __future__ import annotations

import json
import os
import sys
import time

from brigade.errors import RankFailed
from brigade.mesh import Mesh
from brigade.parallel.launch import Ranks, join_world, start_ranks
from brigade.parallel.rendezvous import found_world
from tests.parallel.worker import live


def start(mesh: Mesh, plan: dict | None = None, **options) -> Ranks:
    order = json.dumps(plan or {}).encode()
    world = found_world()
    return (
        start_ranks(mesh, "tests.parallel.worker", order, **options) if world is None else join_world(world, mesh, order, **options)
    )


def step(ranks: Ranks, number: int, watched: bool = True) -> list[list]:
    """One step of all ranks, in which every group exchanges."""
    ranks.step_under_way(watched)
    links = ranks.links
    links.send_order(b"x" * number)
    own = links.exchange.gather_bytes(b"0 of %d" % number) if links.mesh.tp > 1 else []
    links.tick()
    found = [[0, number, [part.decode() for part in own]], *map(json.loads, links.replies())]
    ranks.step_under_way(False)
    return found


def expected(mesh: Mesh, number: int) -> list[list]:
    groups = [mesh.group(rank) if mesh.tp > 1 else () for rank in range(mesh.world)]
    return [[rank, number, [f"{other} of {number}" for other in groups[rank]]] for rank in range(mesh.world)]


def processes(ranks: Ranks) -> dict[int, int]:
    board = ranks.links.board
    return {rank: board.facts(rank).process for rank in range(1, ranks.setup.mesh.world)}


def lead(mesh: Mesh, exchange: str, steps: int) -> None:
    """Say who is there, then go on; say what went wrong."""
    ranks = start(mesh, json.loads(os.environ.get("BRIGADE_TEST_PLAN", "{}")), exchange=exchange)
    try:
        assert step(ranks, 0, watched=False) == expected(mesh, 0)
        ways = [type(way).__name__ for way in (ranks.links.exchange, *ranks.links.ends.values())]
        print(json.dumps([sorted(set(ways)), os.getpid(), *processes(ranks).values()]), flush=True)
        for number in range(1, steps):
            assert step(ranks, number) == expected(mesh, number)
            time.sleep(0.001)
    except RankFailed as error:
        print(error)
    ranks.close()


if __name__ == "__main__":  # tp pp exchange steps
    world = found_world()
    if world is None or world.rank == 0:
        lead(Mesh(tp=int(sys.argv[1]), pp=int(sys.argv[2])), sys.argv[3], int(sys.argv[4]))
    else:
        live()
