"""A rank that is not the leader: it holds its part of the model and of each engine's cache, and does as it is ordered.

The leader starts it as `rank_process.py`.
"""

from __future__ import annotations

import sys

from brigade.assembly.choices import Choices
from brigade.assembly.line import draw, load
from brigade.backends.kv_cache import KVCache
from brigade.parallel.launch import enter
from brigade.parallel.links import Links
from brigade.parallel.messages import Count, DropCache, Load, Loaded, MakeCache, Measure, Room, Step, Sums, decode_order, encode
from brigade.parallel.stage import Stage


def main() -> None:
    """Of a process that the leader, torchrun or srun started. It ends when the leader is done: a wait is `SystemExit` then."""
    try:
        _, rank, order, links = enter()
        serve(Choices.decode(order), rank, links)
    except Exception as error:  # whoever called may catch everything, and go on as if this were the leader
        sys.excepthook(type(error), error, error.__traceback__)
        raise SystemExit(1) from error


def serve(choices: Choices, rank: int, links: Links) -> None:
    blueprint = draw(choices, rank, len(links.here), links.here.index(rank))
    plan = blueprint.plan()
    links.reply(encode(Room(blueprint.numerics_id, plan.room, blueprint.position_bytes)))
    first = decode_order(links.receive_order())  # a leader that finds that it cannot be ends this wait, and the process
    assert isinstance(first, Load)
    blueprint.backend.exchange = links.exchange
    stage = Stage(load(blueprint).model, links)
    links.reply(encode(Loaded(*blueprint.backend.weight_bytes(stage.model))))
    caches: dict[int, KVCache] = {}
    while True:
        order = decode_order(links.receive_order())
        if isinstance(order, Step):
            stage.run(order.batch(), caches[order.cache])
        elif isinstance(order, MakeCache):
            caches[order.number] = blueprint.cache(order.blocks, order.block_size)
        elif isinstance(order, DropCache):
            del caches[order.number]
        elif isinstance(order, Count):
            links.reply(encode(Sums(stage.tensor_sums(blueprint.dtype))))
        else:
            assert isinstance(order, Measure)
            links.reply(encode(stage.times()))
