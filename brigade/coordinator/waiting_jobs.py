"""Requests that wait for a replica: the lowest priority number first, and within it each client in turn.

A client with 10,000 requests has one turn where a client with one has one turn. A request that comes back, because its replica is
gone, goes before all others of its priority: it had its turn. On average no change here takes a time that grows with the queue.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator

from brigade.coordinator.job import Job, JobState

SLACK = 1000  # the queue is cleaned up when its stale entries outnumber the others by more than this


class Level:
    """One priority. Clients stand in a ring, each with its own queue; what has come back stands before the ring."""

    def __init__(self) -> None:
        self.returned: deque[tuple[int, Job]] = deque()
        self.ring: deque[bytes] = deque()
        self.queues: dict[bytes, deque[tuple[int, Job]]] = {}

    def push(self, ticket: int, job: Job) -> None:
        queue = self.queues.get(job.client)
        if queue is None:
            queue = self.queues[job.client] = deque()
            self.ring.append(job.client)
        queue.append((ticket, job))

    def first(self) -> Job | None:
        """Whose turn it is. Those that left the queue meanwhile are dropped on the way."""
        while self.returned:
            ticket, job = self.returned[0]
            if waits(job, ticket):
                return job
            self.returned.popleft()
        while self.ring:
            client = self.ring[0]
            queue = self.queues[client]
            while queue and not waits(queue[0][1], queue[0][0]):
                queue.popleft()
            if queue:
                return queue[0][1]
            self.ring.popleft()
            del self.queues[client]
        return None

    def compact(self) -> None:
        self.returned = deque(entry for entry in self.returned if waits(entry[1], entry[0]))
        kept = {client: deque(entry for entry in queue if waits(entry[1], entry[0])) for client, queue in self.queues.items()}
        self.queues = {client: queue for client, queue in kept.items() if queue}
        self.ring = deque(client for client in self.ring if client in self.queues)

    @property
    def is_empty(self) -> bool:
        return not self.returned and not self.ring

    def drop_first(self) -> None:
        """The one that `first` returned; the turn goes to the next client."""
        if self.returned:
            self.returned.popleft()
            return
        client = self.ring.popleft()
        self.queues[client].popleft()
        self.ring.append(client)


def waits(job: Job, ticket: int) -> bool:
    return job.state is JobState.WAITING and job.ticket == ticket


class WaitingJobs:
    def __init__(self) -> None:
        self._levels: dict[int, Level] = {}
        self._order: list[int] = []  # a heap of the levels' priorities
        self._tickets = 0
        self._entries = 0  # stale ones included; those that `first` drops are counted until the next clean-up
        self.count = 0  # callers must call `left` when a request stops waiting

    def add(self, job: Job, returned: bool = False) -> None:
        if self._entries > 2 * self.count + SLACK:
            self._drop_those_that_left()  # which deletes empty levels: before this one is made
        level = self._levels.get(job.ask.priority)
        if level is None:
            level = self._levels[job.ask.priority] = Level()
            heapq.heappush(self._order, job.ask.priority)
        self._tickets += 1
        self._entries += 1
        job.ticket = self._tickets
        self.count += 1
        if returned:
            level.returned.append((job.ticket, job))
        else:
            level.push(job.ticket, job)

    def left(self) -> None:
        """A waiting request was placed, ended or parked; its entry is dropped when its turn comes."""
        self.count -= 1

    def first(self) -> Job | None:
        while self._order:
            level = self._levels[self._order[0]]
            job = level.first()
            if job is not None:
                return job
            del self._levels[heapq.heappop(self._order)]
        return None

    def drop_first(self) -> None:
        self._levels[self._order[0]].drop_first()
        self._entries -= 1

    def _drop_those_that_left(self) -> None:
        """A client that submits and aborts without end must not fill the memory. Looking at all entries now and then costs a
        bounded time for each entry that was added since the last time."""
        for priority, level in list(self._levels.items()):
            level.compact()
            if level.is_empty:
                del self._levels[priority]
        self._order = sorted(self._levels)
        self._entries = self.count

    def everyone(self) -> Iterator[Job]:
        for level in self._levels.values():
            for queue in (level.returned, *level.queues.values()):
                for ticket, job in queue:
                    if waits(job, ticket):
                        yield job
