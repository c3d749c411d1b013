"""The replicas of one model name, and the requests that wait for them.

All of them compute the same bits: the first one that registers says as what (`identity`), and another is turned away for as long
as there is a replica, or a request that its client may ask for. A request that may be what its replicas died of runs alone: one
replica at a time is cleared for it, and the others go on with the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from brigade.coordinator.job import Job, JobState
from brigade.coordinator.messages import Identity, Register
from brigade.coordinator.prefixes import CHUNK, MOST_PREFIXES, Prefixes
from brigade.coordinator.replica import Replica, Router
from brigade.coordinator.waiting_jobs import WaitingJobs


@dataclass(frozen=True, slots=True)
class Placed:
    replica: Replica
    placement: int
    job: Job


class Fleet:
    def __init__(self, model: str, routing: str, now: float, identity: Identity | None = None) -> None:
        self.model = model
        self.identity = identity
        self.replicas: dict[str, Replica] = {}
        self.waiting = WaitingJobs()
        self.suspects: dict[Job, None] = {}  # that wait for a replica of their own, in their order
        self.kept = 0  # requests that are not forgotten
        self.empty_since = now  # where there is no replica
        self._digest = None if identity is None else identity.digest
        self._router = Router(routing)

    @property
    def digest(self) -> str:
        """Of the identity."""
        assert self._digest is not None
        return self._digest

    @property
    def is_idle(self) -> bool:
        return not self.replicas and not self.kept

    def check(self, register: Register) -> str | None:
        """Why this replica cannot join, if so."""
        if register.capacity < 1:
            return f"capacity is {register.capacity}; a replica must take at least 1 sample"
        if register.name in self.replicas:
            return f"there is a replica of the name {register.name} already; choose another, or wait until it is given up"
        own, other = self.identity, register.identity
        if own is None or own == other or self.is_idle:
            return None
        for name in Identity.__struct_fields__:
            if getattr(own, name) != getattr(other, name):
                return (
                    f"{name} of replica {register.name} is {getattr(other, name)}, but model {self.model!r} is served with "
                    f"{getattr(own, name)}; start it the same way, or under another model name"
                )
        raise AssertionError("two identities that differ in nothing")

    def enroll(self, register: Register, address: bytes, now: float) -> Replica:
        self.identity, self._digest = register.identity, register.identity.digest
        prefixes = Prefixes(min(max(register.cache // CHUNK[list], 0), MOST_PREFIXES))
        replica = Replica(register.name, address, register.capacity, prefixes, now, now, life=register.life)
        self.replicas[register.name] = replica
        return replica

    def remove(self, replica: Replica, now: float) -> list[Job]:
        """Its requests, which it works on no more."""
        del self.replicas[replica.name]
        if not self.replicas:
            self.empty_since = now
        return list(replica.jobs.values())

    def wait(self, job: Job, returned: bool = False) -> None:
        """A request in state WAITING looks for a replica."""
        if job.is_suspect:
            self.suspects[job] = None
        else:
            self.waiting.add(job, returned)

    def stop_waiting(self, job: Job) -> None:
        """To be called before `job.move`, for anything but placing it."""
        if job in self.suspects:
            del self.suspects[job]
            self._end_reservation(job)
        else:
            self.waiting.left()

    def take_off(self, job: Job) -> Replica:
        """Its replica works on it no more. To be called before `job.move`."""
        assert job.state is JobState.PLACED and job.replica is not None and job.placement is not None
        replica = self.replicas[job.replica]
        replica.drop(job.placement)
        self._end_reservation(job)
        return replica

    def made_progress(self, job: Job) -> None:
        """A request that says a new token is no suspect: its replica is open to others again."""
        if job.runs_alone:
            job.runs_alone = False
            self._end_reservation(job)

    def dispatch(self, next_placement: Callable[[], int], now: float) -> Iterator[Placed]:
        """Everything that can be placed now. What is yielded is placed already."""
        for job in [*self.suspects][:1]:
            replica = self._cleared_for(job)
            if replica is None or replica.jobs:
                break
            del self.suspects[job]
            job.runs_alone = True
            yield self._place(job, replica, next_placement(), now)
        while (job := self.waiting.first()) is not None:
            replica = self._router.choose(self.replicas.values(), job)
            if replica is None:
                return
            self.waiting.drop_first()
            self.waiting.left()
            yield self._place(job, replica, next_placement(), now)

    def _place(self, job: Job, replica: Replica, placement: int, now: float) -> Placed:
        job.move("placed on a replica")
        job.replica, job.placement = replica.name, placement
        replica.put(placement, job, self._router.keys(job), now)
        return Placed(replica, placement, job)

    def _cleared_for(self, job: Job) -> Replica | None:
        """The replica that is reserved for this request. At most one of a fleet is reserved at a time: the least loaded."""
        for replica in self.replicas.values():
            if replica.cleared_for is not None:
                return replica if replica.cleared_for is job else None
        if not self.replicas:
            return None
        chosen = min(self.replicas.values(), key=lambda one: (one.load, one.name))
        chosen.cleared_for = job
        return chosen

    def _end_reservation(self, job: Job) -> None:
        for replica in self.replicas.values():
            if replica.cleared_for is job:
                replica.cleared_for = None
