"""Which ranks there are, where another program has started them: `torchrun`, or Slurm's `srun`.

Both say it by the environment. Rank 0 is the leader: there the user's command goes on.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from brigade.errors import ConfigError
from brigade.mesh import Mesh

if TYPE_CHECKING:
    from torch.distributed import Store

Environment = Mapping[str, str]
MEETING = timedelta(minutes=5)  # how long ranks wait for each other before they begin


@dataclass(frozen=True)
class World:
    """The ranks that were started, and which of them this process is. They meet at `address` and `port`, at a store that rank 0
    opens, unless the launcher has opened it (`has_store`)."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    launcher: str
    address: str
    port: int
    has_store: bool = False
    attempt: int = 0  # a launcher that starts all ranks again keeps its store


def found_world(environ: Environment = os.environ) -> World | None:
    """None where this process was started alone."""
    if "RANK" in environ and "WORLD_SIZE" in environ:
        world = _of_torchrun(environ)
    elif "SLURM_STEP_NUM_TASKS" in environ and "SLURM_PROCID" in environ:
        world = _of_srun(environ)
    else:
        return None
    if world is None or world.size == 1:
        return None
    for name, value, size in (("rank", world.rank, world.size), ("local rank", world.local_rank, world.local_size)):
        if value >= size:
            raise ConfigError(f"{world.launcher} says that this is {name} {value} of {size}; ranks are 0 to {size - 1}")
    return world


def check_world(world: World, mesh: Mesh) -> None:
    if world.size != mesh.world:
        raise ConfigError(
            f"{world.launcher} started {world.size} ranks, but tp {mesh.tp} x pp {mesh.pp} needs {mesh.world}; "
            f"start {mesh.world}, or choose other degrees"
        )


def _number(environ: Environment, name: str, least: int = 0, default: int | None = None) -> int:
    text = environ.get(name)
    if text is None and default is not None:
        return default
    if text is None or not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < least:
        shown = "missing" if text is None else repr(text)
        raise ConfigError(
            f"{name} is {shown}, but a launcher sets it to a whole number of at least {least}; start all ranks by one"
        )
    return int(text)


def _port(environ: Environment, default: int | None = None) -> int:
    port = _number(environ, "MASTER_PORT", 1, default)
    if port > 65535:
        raise ConfigError(f"MASTER_PORT is {port}; ports are 1 to 65535")
    return port


def _of_torchrun(environ: Environment) -> World | None:
    size = _number(environ, "WORLD_SIZE", 1)
    if size == 1:
        return None
    if not environ.get("MASTER_ADDR"):
        raise ConfigError(
            f"WORLD_SIZE is {size}, but MASTER_ADDR is missing; start the ranks by torchrun, or unset WORLD_SIZE and RANK"
        )
    return World(
        _number(environ, "RANK"),
        size,
        _number(environ, "LOCAL_RANK"),
        _number(environ, "LOCAL_WORLD_SIZE", 1),
        "torchrun",
        environ["MASTER_ADDR"],
        _port(environ),
        environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        _number(environ, "TORCHELASTIC_RESTART_COUNT", 0, 0),
    )


def _of_srun(environ: Environment) -> World | None:
    size = _number(environ, "SLURM_STEP_NUM_TASKS", 1)
    if size == 1:
        return None
    node, tasks = _number(environ, "SLURM_NODEID", 0, 0), tasks_of_nodes(environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    if node >= len(tasks):
        raise ConfigError(f"SLURM_NODEID is {node}, but SLURM_STEP_TASKS_PER_NODE counts {len(tasks)} nodes")
    address = environ.get("MASTER_ADDR") or first_host(environ.get("SLURM_STEP_NODELIST", ""))
    job = _number(environ, "SLURM_JOB_ID", 0, 0) + _number(environ, "SLURM_STEP_ID", 0, 0)
    port = _port(environ, 20000 + job % 20000)
    return World(_number(environ, "SLURM_PROCID"), size, _number(environ, "SLURM_LOCALID"), tasks[node], "srun", address, port)


def tasks_of_nodes(text: str) -> list[int]:
    """`2(x3),1` is 2 2 2 1."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,6})(?:\(x([0-9]{1,6})\))?", part.strip())
        if match is None or not int(match[1]):
            raise ConfigError(f"SLURM_STEP_TASKS_PER_NODE is {text!r}; srun writes it as 2(x3),1")
        found += [int(match[1])] * int(match[2] or 1)
    return found


def first_host(text: str) -> str:
    """`node[03-07,9],other` begins with node03."""
    match = re.match(r"(?:[^,\[\]]|\[[0-9,-]+\])+", text)
    if match is None or len(match[0]) < len(text) and text[len(match[0])] != ",":
        raise ConfigError(f"SLURM_STEP_NODELIST is {text!r}, which begins with no host; set MASTER_ADDR to the first one")
    return re.sub(r"\[([0-9]+)[0-9,-]*\]", r"\1", match[0])


def open_store(world: World, again: bool = False) -> Store:
    """Where the ranks of a world meet. `again`: one more client of it, for a thread that must not wait behind the others."""
    from torch.distributed import PrefixStore, TCPStore

    serves = world.rank == 0 and not world.has_store and not again
    try:
        store = TCPStore(world.address, world.port, None if again else world.size, serves, timeout=MEETING, wait_for_workers=False)
    except RuntimeError as error:
        raise ConfigError(
            f"rank {world.rank} cannot meet the others at {world.address} port {world.port} ({str(error).splitlines()[0]}); "
            "check MASTER_ADDR and MASTER_PORT"
        ) from error
    return PrefixStore(f"brigade/{world.attempt}", store)


def own_host(environ: Environment = os.environ) -> str:
    """The same for all processes that can share memory. `BRIGADE_HOST` gives another name: two of them stand for two hosts."""
    parts = [environ.get("BRIGADE_HOST", ""), socket.gethostname()]
    with suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def all_hosts(store: Store, size: int) -> tuple[int, ...]:
    """For each rank the first rank of its host; on the leader. Every other rank puts its host's name there."""
    names = [own_host()]
    for other in range(1, size):
        try:
            names.append(store.get(f"host/{other}").decode())
        except RuntimeError as error:
            raise ConfigError(f"rank {other} of {size} did not come to the meeting within {MEETING}; start all ranks") from error
    return tuple(names.index(name) for name in names)
