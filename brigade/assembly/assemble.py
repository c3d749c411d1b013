"""The whole assembly line, alone or as the leader of many ranks."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from brigade.assembly import rank as other_rank
from brigade.assembly.choices import Choices
from brigade.assembly.line import Blueprint, Parts, draw, load
from brigade.checkpoint.load import check_random_weights
from brigade.engine.config import EngineConfig
from brigade.engine.engine import Engine
from brigade.engine.memory_plan import KV_SHARE, MemoryPlan, readable
from brigade.engine.sampling import Sampler
from brigade.errors import ConfigError
from brigade.mesh import Mesh
from brigade.parallel.cores import share_out
from brigade.parallel.launch import Ranks, join_world, refuse_world, start_ranks
from brigade.parallel.leader import Leader
from brigade.parallel.messages import Load, Loaded, Room, decode_reply, encode
from brigade.parallel.rendezvous import World, check_world, found_world
from brigade.parallel.stage import Stage

Progress = Callable[[int, int], None]
Check = Callable[[Blueprint, MemoryPlan], None]
RANK_PROCESS = "brigade.assembly.rank_process"  # of every rank that the leader starts


@dataclass(frozen=True)
class Assembled:
    parts: Parts
    plan: MemoryPlan
    engine: Engine
    ranks: Ranks | None = None  # the others, where there are any
    rooms: Sequence[Room] = ()  # what they could hold
    loaded: Sequence[Loaded] = ()  # and what they hold

    def plan_of(self, config: EngineConfig) -> MemoryPlan:
        """Of another engine over the same weights."""
        drawn = self.parts.blueprint
        return fitted(drawn.plan(config, is_loaded=True), config, self.rooms, drawn.mesh)

    def weight_bytes(self) -> tuple[int, int]:
        """What a step reads on all ranks together: all layers, and the head."""
        layers, head = self.parts.blueprint.backend.weight_bytes(self.parts.model)
        return layers + sum(one.layer_bytes for one in self.loaded), head + sum(one.head_bytes for one in self.loaded)


def assemble(
    choices: Choices, sampler: Sampler | None = None, progress: Progress | None = None, check: Check | None = None
) -> Assembled:
    """Under torchrun or srun only rank 0 comes back: the others serve it until it is done, and end. `check` is called when all is
    decided and no weight is read; what it raises ends the assembly."""
    world = found_world(os.environ)
    if world is None:
        return _assemble(choices, None, sampler, progress, check)
    if world.rank > 0:
        other_rank.main()
        raise SystemExit(0)
    try:
        return _assemble(choices, world, sampler, progress, check)
    except BaseException as error:
        refuse_world(world, error)  # the others wait for the leader
        raise


def _assemble(
    choices: Choices, world: World | None, sampler: Sampler | None, progress: Progress | None, check: Check | None
) -> Assembled:
    blueprint = draw(choices, 0, None if world is None else world.local_size, 0 if world is None else world.local_rank)
    mesh = blueprint.mesh
    if world is not None:
        check_world(world, mesh)
    check_random_weights(blueprint.source, blueprint.random_weights)
    plan = blueprint.plan()
    if check is not None:
        check(blueprint, plan)
    if mesh.world == 1:
        parts = load(blueprint, progress)
        return Assembled(parts, plan, parts.engine(plan, sampler))
    order = choices.pinned().encode()
    how: dict[str, Any] = {
        "exchange": choices.exchange, "device": blueprint.backend.device.type, "rank_timeout": choices.rank_timeout,
        "max_rows_bytes": blueprint.row_bytes,
    }  # fmt: skip
    if world is None:
        cores = share_out(mesh.world, choices.threads, choices.cpus)
        ranks = start_ranks(mesh, RANK_PROCESS, order, cores=cores, **how)
    else:
        ranks = join_world(world, mesh, order, **how)
    with ranks.all_or_none():
        return _lead(blueprint, plan, ranks, sampler, progress)


def _lead(
    blueprint: Blueprint, plan: MemoryPlan, ranks: Ranks, sampler: Sampler | None, progress: Progress | None
) -> Assembled:  # fmt: skip
    links, mesh = ranks.links, blueprint.mesh
    rooms = [decode_reply(data) for data in links.replies()]
    _check_numerics(blueprint.numerics_id, rooms, mesh)
    plan = fitted(plan, blueprint.engine_config, rooms, mesh)
    blueprint.source.fetch_weights()  # by one rank of this machine, while the others wait as long as it takes
    links.send_order(encode(Load()))
    blueprint.backend.exchange = links.exchange
    parts = load(blueprint, progress)
    loaded = [decode_reply(data) for data in links.replies()]
    parts = replace(parts, leader=Leader(Stage(parts.model, links), ranks, mesh.pp))
    return Assembled(parts, plan, parts.engine(plan, sampler), ranks, rooms, loaded)


def _check_numerics(own: str, rooms: Sequence[Room], mesh: Mesh) -> None:
    for rank, room in enumerate(rooms, 1):
        if room.numerics_id != own:
            raise ConfigError(
                f"{mesh.name(rank)} computes as {room.numerics_id}, the leader as {own}; their machines differ: ask for the same "
                "bits on all with --numerics, such as bf16-fma"
            )


def fitted(plan: MemoryPlan, config: EngineConfig, rooms: Sequence[Room], mesh: Mesh) -> MemoryPlan:
    """The leader's plan with as many blocks as every rank can hold: their numbers mean the same on each."""
    for rank, room in enumerate(rooms, 1):
        block_bytes = room.position_bytes * config.block_size
        if config.kv_blocks is not None:
            if config.kv_blocks * block_bytes > room.cache_bytes:
                raise ConfigError(
                    f"{config.kv_blocks} KV blocks need {readable(config.kv_blocks * block_bytes)} on {mesh.name(rank)}, which has "
                    f"{readable(room.cache_bytes)} left; lower kv_blocks, or use more ranks"
                )
            continue
        most = (config.kv_memory if config.kv_memory is not None else int(room.cache_bytes * KV_SHARE)) // block_bytes
        if most < 1:
            raise ConfigError(
                f"a KV block needs {readable(block_bytes)} on {mesh.name(rank)}, which has {readable(room.cache_bytes)} left; "
                "raise kv_memory, lower block_size, or use more ranks"
            )
        plan = replace(plan, num_blocks=min(plan.num_blocks, most))
    return plan
