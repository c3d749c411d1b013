"""The processors of a host, shared out between its ranks."""

from __future__ import annotations

import os
from dataclasses import dataclass

from brigade.backends.cpu.threads import allowed_threads, read_cpus
from brigade.errors import ConfigError


@dataclass(frozen=True)
class Cores:
    """Of one rank: so many threads, and the processors that they are kept on, if any were named. `own`: no other rank has these, so
    this rank may spin while it waits."""

    threads: int
    cpus: str | None
    own: bool


def share_out(ranks: int, threads: int | None = None, cpus: str | None = None) -> list[Cores]:
    """For every rank of this host; each rank computes the same. `threads`: of each rank; `cpus`: of all together. Who asks for
    neither has BRIGADE_CPUS, or else an equal share of what this process may use: one thread at least."""
    if threads is not None and cpus is not None:
        raise ConfigError(f"threads {threads} and cpus {cpus!r} both share out the processors; give one of them")
    total = allowed_threads()
    if threads is None:
        name, cpus = ("cpus", cpus) if cpus else ("BRIGADE_CPUS", os.environ.get("BRIGADE_CPUS"))
        if cpus:
            return _named(ranks, read_cpus(cpus, name), f"{name} is {cpus!r}")
    each = max(total // ranks, 1) if threads is None else threads
    if not 1 <= each <= total:
        raise ConfigError(f"threads is {each}, of each rank; this process may use {total} processors: give 1 to {total}")
    return [Cores(each, None, each * ranks <= total)] * ranks


def _named(ranks: int, cpus: tuple[int, ...], given: str) -> list[Cores]:
    if len(cpus) < ranks:
        raise ConfigError(f"{given}, which are {len(cpus)} processors for {ranks} ranks; name one for each rank, or give threads")
    shares = [cpus[len(cpus) * rank // ranks : len(cpus) * (rank + 1) // ranks] for rank in range(ranks)]
    return [Cores(len(share), ",".join(map(str, share)), True) for share in shares]
