"""A replica as the coordinator sees it, and the choice among several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from brigade.coordinator.job import Job
from brigade.coordinator.prefixes import Prefixes, prompt_keys


@dataclass(slots=True, eq=False)
class Replica:
    """`jobs`: what it works on, by placement. `cleared_for`: the request that is to run here alone; nothing else is sent here."""

    name: str
    address: bytes
    capacity: int
    prefixes: Prefixes
    last_word: float  # when it said something last
    moved: float  # when it finished a layer last, or got work after it had none
    layers: int = 0
    life: bytes = b""  # of its process
    jobs: dict[int, Job] = field(default_factory=dict)
    load: int = 0  # samples
    cleared_for: Job | None = None

    def has_room(self, samples: int) -> bool:
        """An idle replica takes any request, however many samples it has."""
        return self.cleared_for is None and (not self.jobs or self.load + samples <= self.capacity)

    def put(self, placement: int, job: Job, keys: Sequence[bytes], now: float) -> None:
        if not self.jobs:
            self.moved = now
        self.jobs[placement] = job
        self.load += job.ask.n
        job.ages = self.prefixes.send(keys)

    def drop(self, placement: int) -> None:
        self.load -= self.jobs.pop(placement).ask.n


class Router:
    """Chooses among replicas that have room."""

    def __init__(self, routing: str) -> None:
        self.routing = routing
        self._last = ""  # whose turn it was

    def keys(self, job: Job) -> list[bytes]:
        if job.keys is None:
            ask = job.ask
            job.keys = prompt_keys(ask.prompt, ask.params.get("cache_salt")) if self.routing == "prefix" else []
        return job.keys

    def choose(self, replicas: Iterable[Replica], job: Job) -> Replica | None:
        """`prefix`: the one that probably holds the longest beginning of the prompt, and of equals the least loaded. A full replica
        is never waited for, even if it holds the whole prompt."""
        able = [replica for replica in replicas if replica.has_room(job.ask.n)]
        if not able:
            return None
        keys = self.keys(job)
        if self.routing == "round-robin":
            chosen = min(able, key=lambda one: (one.name <= self._last, one.name))
            self._last = chosen.name
            return chosen
        return min(able, key=lambda one: (-one.prefixes.known(keys) if keys else 0, one.load / one.capacity, one.name))
