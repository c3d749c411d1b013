"""What the coordinator knows of clients, requests and replicas, and the steps that more than one message takes.

Whoever changes a request's state takes it out of the queue or off its replica first (`_take_off`); from then on what that replica
says of it is dropped. Every change that must survive is a record, and every word to somebody else is a message; `machine.py` hands
both over at the end of a round.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from brigade.coordinator.control import ControlState
from brigade.coordinator.fleet import Fleet
from brigade.coordinator.job import Job, JobState
from brigade.coordinator.messages import MOST_ERROR, Ask, Begun, Heard, Message, Piece, Refused, Withdraw
from brigade.coordinator.records import Acceptance, Ending, Pinned, Record
from brigade.coordinator.replica import Replica
from brigade.coordinator.settings import CoordinatorSettings
from brigade.coordinator.waiting_jobs import SLACK
from brigade.errors import FailureKind, RefusalKind


@dataclass(slots=True, eq=False)
class Client:
    key: bytes
    address: bytes | None  # None: it is away
    last_word: float  # when it said something last
    away_until: float = 0.0
    left: bytes | None = None  # the address that it had when it went away
    jobs: dict[int, Job] = field(default_factory=dict)
    pieces: list[Piece] = field(default_factory=list)  # of this round


def too_late(job: Job) -> str:
    return f"its deadline of {job.ask.deadline:g} s has passed"


class Books:
    """`life`: how many times a coordinator of this journal was started; `kept` and `pinned`: what the journal gives back."""

    def __init__(
        self,
        settings: CoordinatorSettings,
        now: float,
        life: int = 0,
        kept: Iterable[Acceptance] = (),
        pinned: Iterable[Pinned] = (),
    ) -> None:
        self.settings, self.now = settings, now
        self.state = ControlState.RUNNING
        self.counts: Counter[str] = Counter()
        self._placements = life << 40
        self._clients: dict[bytes, Client] = {}  # by key
        self._speakers: dict[bytes, Client] = {}  # by address
        self._fleets: dict[str, Fleet] = {}
        self._members: dict[bytes, tuple[Fleet, Replica]] = {}  # by address
        self._due: list[tuple[float, int, Job]] = []
        self._numbers = 0
        self._open = 0
        self._records: list[Record] = []
        self._sends: list[tuple[bytes, Message]] = []
        self._has_pieces: dict[bytes, Client] = {}  # who is sent some in this round
        for pin in pinned:
            self._fleets[pin.model] = Fleet(pin.model, settings.routing, now, pin.identity)
        for one in kept:
            client = self._clients.get(one.client)
            if client is None:
                client = self._clients[one.client] = Client(one.client, None, now, now + settings.restart_grace)
            self._open_job(client, one.number, one.ask, one.due).move("given back by the journal")

    def _open_job(self, client: Client, number: int, ask: Ask, due: float | None) -> Job:
        fleet = self._fleets.get(ask.model)
        if fleet is None:
            fleet = self._fleets[ask.model] = Fleet(ask.model, self.settings.routing, self.now)
        job = client.jobs[number] = Job(client.key, number, ask, due, waits_since=self.now)
        if due is not None:
            if len(self._due) > 2 * sum(one.kept for one in self._fleets.values()) + SLACK:
                # Those that were forgotten. One that has ended may have to go on: its client may come back without the end.
                self._due = [entry for entry in self._due if entry[2].state is not JobState.FORGOTTEN]
                heapq.heapify(self._due)
            self._numbers += 1
            heapq.heappush(self._due, (due, self._numbers, job))
        fleet.kept += 1
        self._open += 1
        return job

    def _take_off(self, fleet: Fleet, job: Job) -> None:
        """Out of the queue, or off its replica, which is told. Its state is for the caller to change."""
        if job.state is JobState.WAITING:
            fleet.stop_waiting(job)
        elif job.state is JobState.PLACED:
            assert job.placement is not None
            self._send(fleet.take_off(job).address, Withdraw(job.placement))

    def _return(self, fleet: Fleet, job: Job, is_suspicious: bool) -> None:
        """From a replica that works on it no more to the head of the queue. `is_suspicious`: the request may be the reason."""
        error = job.lose() if is_suspicious else None
        job.move("replica lost")
        job.waits_since = self.now
        fleet.wait(job, returned=True)
        if error is not None:
            self._fail(fleet, job, error)

    def _fail(self, fleet: Fleet, job: Job, error: str, kind: FailureKind | None = None) -> None:
        self.counts["failed"] += 1
        self._take_off(fleet, job)
        self._tell(self._clients[job.client], job.fail(error[:MOST_ERROR], kind))
        self._close(job, "cannot go on")

    def _close(self, job: Job, event: str) -> None:
        job.move(event)
        self._open -= 1

    def _forget(self, client: Client, job: Job, event: str) -> None:
        fleet = self._fleets[job.ask.model]
        self._take_off(fleet, job)
        self._open -= job.is_open
        job.move(event)
        fleet.kept -= 1
        del client.jobs[job.number]
        if client.pieces:
            client.pieces = [piece for piece in client.pieces if piece.number != job.number]
        self._records.append(Ending(client.key, job.number))

    def _stand(self, job: Job, heard: Sequence[Heard], began_as: str) -> None:
        """A client is back, and says what it has. What is missing is computed again from there."""
        fleet = self._fleets[job.ask.model]
        if job.state is not JobState.PARKED:
            if job.has_said(heard):
                if job.began_as != began_as:  # that word was lost on the way
                    self._send_begun(job)
                return
            if job.state is not JobState.ENDED:
                self._take_off(fleet, job)
                job.move("client away")
        ended = job.state is JobState.ENDED
        job.stand_at(heard)
        job.began_as = began_as
        job.move("client back without the end" if ended else "client back")
        self._open += ended
        job.waits_since = self.now
        fleet.wait(job)
        if job.due is not None and job.due <= self.now:
            self._fail(fleet, job, too_late(job))
        elif self.state is ControlState.STOPPED:
            self._fail(fleet, job, "the coordinator was stopped", "stopped")

    def _send_begun(self, job: Job) -> None:
        client = self._clients[job.client]
        if client.address is not None and job.began_as:
            self._send(client.address, Begun(job.number, job.began_as))

    def _part(self, client: Client, grace: float) -> None:
        """A client is away: its requests are kept for so long, and run no longer meanwhile."""
        if client.address is not None:
            self._speakers.pop(client.address, None)
            client.address, client.left = None, client.address
        client.pieces = []
        client.away_until = self.now + grace
        for job in list(client.jobs.values()):
            if job.state in (JobState.WAITING, JobState.PLACED):
                self._take_off(self._fleets[job.ask.model], job)
                job.move("client away")
        if grace <= 0:
            self._dismiss(client)

    def _dismiss(self, client: Client) -> None:
        for job in list(client.jobs.values()):
            self._forget(client, job, "given up")
        del self._clients[client.key]

    def _lose(self, fleet: Fleet, replica: Replica, why: str | None) -> None:
        """`why`: None if it left by its own will, for which no request is to blame."""
        del self._members[replica.address]
        if why is not None:
            self.counts["replicas lost"] += 1
        for job in fleet.remove(replica, self.now):
            self._return(fleet, job, is_suspicious=why is not None)

    def _next_placement(self) -> int:
        self._placements += 1
        return self._placements

    def _tell(self, client: Client, pieces: Sequence[Piece]) -> None:
        client.pieces += pieces
        self._has_pieces[client.key] = client

    def _refuse(self, address: bytes, number: int | None, error: str, kind: RefusalKind | None = None) -> None:
        self._send(address, Refused(number, error, kind))

    def _send(self, address: bytes, message: Message) -> None:
        self._sends.append((address, message))
