"""A replica as the coordinator sees it, and the choice among several."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from brigade.coordinator.job import Job
from brigade.coordinator.messages import Prompt

CHUNK = {str: 256, list: 64}  # of a prompt: characters, or ids
MOST_PREFIXES = 1 << 18  # of one replica
MOST_CHUNKS = 64  # of one prompt: prompts that are equal so far share all that matters


@dataclass(slots=True, eq=False)
class Replica:
    """`jobs`: what it works on, by placement. `cleared_for`: the request that is to run here alone; nothing else is sent here."""

    name: str
    address: bytes
    capacity: int
    most_prefixes: int
    heard: float
    moved: float  # when its layers grew, or work came to it that had none
    layers: int = 0
    life: bytes = b""  # of its process
    jobs: dict[int, Job] = field(default_factory=dict)
    load: int = 0  # samples
    cleared_for: Job | None = None
    prefixes: OrderedDict[bytes, int] = field(default_factory=OrderedDict)  # of prompts sent here, the latest last; their numbers
    sent: int = 0  # prefixes, in all
    reach: int = 0  # so many of the latest it still has, as far as its own words tell: at most `most_prefixes`

    def __post_init__(self) -> None:
        self.reach = self.most_prefixes

    def has_room(self, samples: int) -> bool:
        """An idle replica takes any request, however many samples it has."""
        return self.cleared_for is None and (not self.jobs or self.load + samples <= self.capacity)

    def put(self, placement: int, job: Job, keys: Sequence[bytes], now: float) -> None:
        if not self.jobs:
            self.moved = now
        self.jobs[placement] = job
        self.load += job.ask.n
        job.ages = [self.sent - self.prefixes[key] for key in keys[: self.known(keys)]]
        for key in keys:
            self.prefixes.pop(key, None)
            self.sent += 1
            self.prefixes[key] = self.sent
        self._forget()

    def learn(self, job: Job, cached: int, total: int) -> None:
        """It says how much of a prompt it had, in ids. What it should have had and had not is gone, and what is older is gone too:
        its memory holds less than it seemed, since running requests need some. What it had shows that it reaches further."""
        keys, expected = job.keys or (), len(job.ages)
        if not keys or not expected or cached < 0 or total <= 0:
            return
        held = min(len(keys) * cached // total, len(keys))
        if held + 1 < expected:  # the last of them may be cut by a block's border
            self.reach = max(min(self.reach, job.ages[held]), 1)
            self._forget()
        else:
            self.reach = min(self.reach + self.reach // 8 + 1, self.most_prefixes)

    def _forget(self) -> None:
        while len(self.prefixes) > self.reach:
            self.prefixes.popitem(last=False)

    def drop(self, placement: int) -> None:
        self.load -= self.jobs.pop(placement).ask.n

    def known(self, keys: Sequence[bytes]) -> int:
        """How many leading chunks of a prompt it was sent before."""
        return next((at for at, key in enumerate(keys) if key not in self.prefixes), len(keys))


def prompt_keys(prompt: Prompt) -> list[bytes]:
    """Of every leading run of whole chunks."""
    size = CHUNK[type(prompt)]
    digest, keys = hashlib.blake2b(digest_size=8), []
    for start in range(0, min(len(prompt), size * MOST_CHUNKS) - size + 1, size):
        chunk = prompt[start : start + size]
        digest.update(chunk.encode("utf-8", "surrogatepass") if isinstance(chunk, str) else repr(chunk).encode())
        keys.append(digest.copy().digest())
    return keys


class Router:
    """Chooses among replicas that have room."""

    def __init__(self, routing: str) -> None:
        self.routing = routing
        self._last = ""  # whose turn it was

    def keys(self, job: Job) -> list[bytes]:
        if job.keys is None:
            job.keys = prompt_keys(job.ask.prompt) if self.routing == "prefix" else []
        return job.keys

    def choose(self, replicas: Iterable[Replica], job: Job) -> Replica | None:
        """`prefix`: who was sent most of the prompt before, and of equals the least loaded. A long prefix that a busy replica knows
        is worth waiting for no longer than its room lasts: who has no room is not asked."""
        able = [replica for replica in replicas if replica.has_room(job.ask.n)]
        if not able:
            return None
        keys = self.keys(job)
        if self.routing == "round-robin":
            chosen = min(able, key=lambda one: (one.name <= self._last, one.name))
            self._last = chosen.name
            return chosen
        return min(able, key=lambda one: (-one.known(keys) if keys else 0, one.load / one.capacity, one.name))
