"""The coordinator's logic: messages and the time come in, records and messages go out.

Three rules hold this file together.

- There is no socket, clock, random number or file here: whoever calls says who spoke, what, and when; `take` returns what is to be
  written first, and then what is to be sent. So a test can feed it any order of events, as fast as it likes.
- Nothing that a client or a replica says raises an error. A client's nonsense is refused in words or dropped; a replica that makes
  no sense is given up.
- A token reaches a client only through the placement that the request has now. Before the state of a request changes, it is taken
  out of the queue or off its replica.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from brigade.coordinator.books import Books, Client, too_late
from brigade.coordinator.control import ControlState, after
from brigade.coordinator.fleet import Fleet, Placed
from brigade.coordinator.job import JobState
from brigade.coordinator.messages import (
    MOST_DEPTH,
    MOST_NAME,
    PROTOCOL,
    Abort,
    Accepted,
    Acknowledge,
    Alive,
    Beat,
    Bye,
    ClientMessage,
    Control,
    Enrolled,
    Frame,
    Heard,
    Hello,
    Leaving,
    Look,
    Message,
    OperatorMessage,
    Place,
    Register,
    Rejected,
    ReplicaMessage,
    ReplicaState,
    Said,
    Status,
    Stop,
    Stranger,
    Submit,
    TurnedAway,
    Welcome,
    is_deeper,
)
from brigade.coordinator.records import Acceptance, Pinned, Record, Unpinned
from brigade.coordinator.replica import Replica
from brigade.errors import RefusalKind

MOST_KEY = 64  # bytes of a client's key
COMING_BACK = 2  # those that come back may exceed the bounds up to this factor


def can_be(heard: Sequence[Heard], samples: int) -> bool:
    """Whether this is a possible report on so many samples."""
    return len(heard) == samples and all(
        one.characters >= 0 and all(0 <= token < 2**31 for token in one.token_ids) for one in heard
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Batch:
    """Of one round: `records` are written before anything of `sends` is sent."""

    records: Sequence[Record]
    sends: Sequence[tuple[bytes, Message]]


class Coordinator(Books):
    """Callers may read `state`, `counts` and `now` of `Books`; the rest of it is private."""

    # What clients say.

    def client_says(self, address: bytes, message: ClientMessage, now: float, entropy: int = 0) -> None:
        """`entropy`: the seed of a request that was accepted and brings none, from 0 to 2**64 - 1."""
        self.now = now
        if isinstance(message, Hello):
            return self._hello(address, message)
        if isinstance(message, Look):
            return self._send(address, self.status())
        client = self._speakers.get(address)
        if client is None:
            return self._bye_of_one_cut_off(address) if isinstance(message, Bye) else self._send(address, Stranger())
        client.last_word = now
        if isinstance(message, Submit):
            self._submit(client, message, entropy)
        elif isinstance(message, Bye):
            self._part(client, grace=0.0)
        elif isinstance(message, Alive):
            self._send(address, message)
        else:
            job = client.jobs.get(message.number)
            if job is None:
                self.counts["words about no request"] += 1
            elif isinstance(message, Abort):
                self._forget(client, job, "given up")
            else:
                assert isinstance(message, Acknowledge)
                if job.state is JobState.ENDED:
                    self._forget(client, job, "acknowledged")
                else:
                    self.counts["ends acknowledged too early"] += 1

    def _bye_of_one_cut_off(self, address: bytes) -> None:
        """It closed its connection behind the word, and that was found out before the word was read."""
        for client in list(self._clients.values()):
            if client.address is None and client.left == address:
                self._dismiss(client)

    def _hello(self, address: bytes, hello: Hello) -> None:
        if hello.protocol != PROTOCOL:
            return self._refuse(address, None, f"this client speaks protocol {hello.protocol}, the coordinator {PROTOCOL}")
        if not 1 <= len(hello.key) <= MOST_KEY:
            return self._refuse(address, None, f"a client's key has {len(hello.key)} bytes; give 1 to {MOST_KEY}")
        client = self._clients.get(hello.key)
        if client is not None and client.address == address:  # said twice on one connection: an address is never used again
            return self._welcome(address, client)
        if client is None:
            if len(self._clients) >= self.settings.max_clients * (COMING_BACK if hello.open else 1):
                return self._refuse(address, None, f"{len(self._clients)} clients are here; max_clients lets in no more")
            client = self._clients[hello.key] = Client(hello.key, None, self.now)
        other = self._speakers.get(address)
        if other is not None and other is not client:
            self._part(other, grace=0.0)
        if client.address is not None:
            self._speakers.pop(client.address, None)
        client.address, client.last_word = address, self.now
        client.pieces = []  # not sent yet; what it has, it says itself
        self._speakers[address] = client
        named = {one.number: one for one in hello.open if len(one.began_as) <= MOST_NAME}  # nonsense names nothing
        for number, job in list(client.jobs.items()):
            one = named.get(number)
            if one is None or not can_be(one.heard, job.ask.n) or all(sample.is_ended for sample in one.heard):
                self._forget(client, job, "given up")
            else:
                self._stand(job, one.heard, one.began_as)
        self._welcome(address, client)

    def _welcome(self, address: bytes, client: Client) -> None:
        seeds = {number: job.ask.seed for number, job in client.jobs.items() if job.ask.seed is not None}
        self._send(address, Welcome(PROTOCOL, seeds, self.settings.most_of_client))

    def _submit(self, client: Client, message: Submit, entropy: int) -> None:
        known = client.jobs.get(message.number)
        if known is not None:
            assert client.address is not None and known.ask.seed is not None
            return self._send(client.address, Accepted(message.number, known.ask.seed))
        error, kind = self._why_not(client, message), None
        if error is None:
            error, kind = self._no_room(client, message)
        if error is not None:
            assert client.address is not None
            self.counts["refused"] += 1
            return self._refuse(client.address, message.number, error, kind)
        ask = message.ask
        if ask.seed is None:
            ask = msgspec.structs.replace(ask, seed=entropy)
        due = None if ask.deadline is None else self.now + ask.deadline
        job = self._open_job(client, message.number, ask, due)
        self._records.append(Acceptance(client.key, message.number, ask, due))
        self.counts["accepted"] += 1
        assert client.address is not None and ask.seed is not None
        self._send(client.address, Accepted(message.number, ask.seed))
        fleet = self._fleets[ask.model]
        if message.heard:
            job.stand_at(message.heard)
            job.began_as = message.began_as
        fleet.wait(job)

    def _why_not(self, client: Client, message: Submit) -> str | None:
        ask, settings = message.ask, self.settings
        if len(ask.model) > MOST_NAME or is_deeper(ask.params):
            return f"the model's name has more than {MOST_NAME} characters, or params are nested more than {MOST_DEPTH} deep"
        if len(message.began_as) > MOST_NAME:
            return f"began_as has {len(message.began_as)} characters; it is what `begun` said"
        if not 0 <= message.number < 2**64:
            return f"a request's number is {message.number}; it must be from 0 to {2**64 - 1}"
        if not -(2**31) <= ask.priority <= 2**31:
            return f"priority is {ask.priority}; it must be from {-(2**31)} to {2**31}"
        if not 1 <= ask.n <= settings.max_samples:
            return f"n is {ask.n}; it must be from 1 to {settings.max_samples}"
        if ask.seed is not None and not 0 <= ask.seed < 2**64:
            return f"seed is {ask.seed}; it must be from 0 to {2**64 - 1}"
        if ask.deadline is not None and not 0 < ask.deadline < 1e9:
            return f"deadline is {ask.deadline}; it must be a number of seconds above 0"
        if message.heard and (not can_be(message.heard, ask.n) or ask.seed is None):
            return "a request that goes on names its seed, and what was heard of each of its samples"
        if message.heard and all(one.is_ended for one in message.heard):
            return "all samples of this request have ended; nothing is left of it"
        return None

    def _no_room(self, client: Client, message: Submit) -> tuple[str | None, RefusalKind | None]:
        """For a request that may be asked elsewhere, or later."""
        settings = self.settings
        if self.state is ControlState.STOPPED or (self.state is ControlState.DRAINING and not message.heard):
            return f"the coordinator is {self.state.value} and takes no new request", "busy"
        room = COMING_BACK if message.heard else 1  # what runs already may come back where newcomers may not
        if len(client.jobs) >= settings.max_requests_of_client * room:
            mine = f"{len(client.jobs)} requests of this client are open"
            return f"{mine}; max_requests_of_client takes no more: ask for fewer at once", "crowded"
        if self._open >= settings.max_requests * room:
            return f"{self._open} requests are open; max_requests takes no more: try later", "crowded"
        return None, None

    # What operators say.

    def operator_says(self, address: bytes, message: OperatorMessage, now: float) -> None:
        self.now = now
        if isinstance(message, Control):
            self._control(address, message)
        else:
            self._send(address, self.status())

    # What replicas say.

    def has_replica(self, address: bytes) -> bool:
        return address in self._members

    def replica_says(self, address: bytes, message: ReplicaMessage, now: float) -> None:
        self.now = now
        if isinstance(message, Register):
            return self._register(address, message)
        member = self._members.get(address)
        if member is None:
            self.counts["frames of replicas that were given up"] += 1
            return self._send(address, TurnedAway("the coordinator has no replica here; register", "register"))
        fleet, replica = member
        replica.last_word = now
        if isinstance(message, (Frame, Beat)):
            if message.layers != replica.layers or (isinstance(message, Beat) and message.is_reading):
                replica.layers, replica.moved = message.layers, now
            if isinstance(message, Frame):
                self._frame(fleet, replica, message)
        elif isinstance(message, Rejected):
            job = replica.jobs.get(message.placement)
            if job is not None:
                self._fail(fleet, job, message.error)
        else:
            assert isinstance(message, Leaving)
            self._lose(fleet, replica, message.error)

    def _register(self, address: bytes, message: Register) -> None:
        if message.protocol != PROTOCOL:
            error = f"this replica speaks protocol {message.protocol}, the coordinator {PROTOCOL}"
            return self._send(address, TurnedAway(error, "end"))
        if len(message.name) > MOST_NAME or len(message.model) > MOST_NAME or is_deeper(message.identity.defaults):
            return self._send(address, TurnedAway(f"a name has more than {MOST_NAME} characters, or defaults are too deep", "end"))
        if self.state is ControlState.STOPPED:
            return self._send(address, Stop())
        if address in self._members:  # it begins anew
            self._lose(*self._members[address], None)
        fleet = self._fleets.get(message.model)
        if fleet is None:
            fleet = Fleet(message.model, self.settings.routing, self.now)
        before = fleet.replicas.get(message.name)
        if before is not None and message.life and before.life == message.life:  # its connection was lost, and it has another
            self._lose(fleet, before, None)
        error = fleet.check(message)
        if error is not None:
            self.counts["replicas turned away"] += 1
            return self._send(address, TurnedAway(error, "wait" if message.name in fleet.replicas else "end"))
        self._fleets[message.model] = fleet
        if fleet.identity != message.identity:
            self._records.append(Pinned(message.model, message.identity))
        self._members[address] = (fleet, fleet.enroll(message, address, self.now))
        self.counts["replicas enrolled"] += 1
        self._send(address, Enrolled())

    def _frame(self, fleet: Fleet, replica: Replica, frame: Frame) -> None:
        for placement, cached, total in frame.cached:
            if placement in replica.jobs:
                job = replica.jobs[placement]
                replica.prefixes.learn(job.keys or (), job.ages, cached, total)
        for piece in frame.pieces:
            job = replica.jobs.get(piece.number)  # of a replica's piece the placement; the client's is the request's own number
            if job is None:
                self.counts["pieces of old placements"] += 1
                continue
            if piece.finish == "abort":  # by the replica itself: the request goes on elsewhere
                fleet.take_off(job)
                self._return(fleet, job, is_suspicious=True)
                continue
            try:
                given = job.take(piece)
            except ValueError as error:
                self.counts["replicas that made no sense"] += 1
                self._send(replica.address, TurnedAway(f"this replica made no sense ({error}); it was given up", "register"))
                return self._lose(fleet, replica, "it made no sense")
            if given is not None:  # else it is an end that the client has
                self._tell(self._clients[job.client], [given])
                self.counts["tokens"] += len(given.token_ids)
                if given.token_ids:
                    fleet.made_progress(job)
            if job.all_ended:
                fleet.take_off(job)
                self._close(job, "last sample ended")

    def replica_ended(self, address: bytes, why: str, now: float) -> None:
        """Its process is known to be gone."""
        self.now = now
        member = self._members.get(address)
        if member is not None:
            self._lose(*member, why)

    def cut_off(self, address: bytes, now: float) -> None:
        """What was to be sent there was not: whoever it is has missed something, and has to begin anew. A client says where it
        stands when it comes back; a replica is told to register."""
        self.now = now
        client = self._speakers.get(address)
        if client is not None:
            self._part(client, self.settings.client_grace)
        self.replica_ended(address, "it could not be reached", now)

    # Time.

    def tick(self, now: float) -> None:
        self.now = now
        settings = self.settings
        for fleet, replica in list(self._members.values()):
            if now - replica.last_word >= settings.replica_timeout:
                self._lose(fleet, replica, f"it was silent for {settings.replica_timeout:g} s")
            elif replica.jobs and now - replica.moved >= settings.hang_timeout:
                # Left alone it would register again, and the next requests would hang with it: it has to end. Whoever started it
                # starts another.
                why = f"it finished no layer for {settings.hang_timeout:g} s"
                self._send(replica.address, TurnedAway(f"{why}, and was given up", "end"))
                self._lose(fleet, replica, why)
        for client in list(self._clients.values()):
            if client.address is None:
                if now >= client.away_until:
                    self._dismiss(client)
            elif now - client.last_word >= settings.client_timeout:
                self._part(client, settings.client_grace)
        while self._due and self._due[0][0] <= now:
            _, _, job = heapq.heappop(self._due)
            if job.state in (JobState.WAITING, JobState.PLACED):
                self._fail(self._fleets[job.ask.model], job, too_late(job))
        for model, fleet in list(self._fleets.items()):
            if fleet.is_idle:
                del self._fleets[model]
                if fleet.identity is not None:
                    self._records.append(Unpinned(model))
            elif not fleet.replicas and now - fleet.empty_since >= settings.no_replica_timeout:
                for job in [*fleet.suspects, *fleet.waiting.everyone()]:  # each has the whole time, also one that came later
                    if now - max(fleet.empty_since, job.waits_since) >= settings.no_replica_timeout:
                        error = f"there was no replica of model {fleet.model!r} for {settings.no_replica_timeout:g} s"
                        self._fail(fleet, job, error, "no replica")

    # What goes out.

    def take(self) -> Batch:
        """Place what can be placed, and hand over what this round has to say."""
        if self.state in (ControlState.RUNNING, ControlState.DRAINING):
            for fleet in self._fleets.values():
                for placed in fleet.dispatch(self._next_placement, self.now):
                    self._place(fleet, placed)
        for client in self._has_pieces.values():
            if client.pieces and client.address is not None:
                self._send(client.address, Said(client.pieces))
            client.pieces = []
        batch = Batch(self._records, self._sends)
        self._records, self._sends, self._has_pieces = [], [], {}
        return batch

    def _place(self, fleet: Fleet, placed: Placed) -> None:
        job, digest = placed.job, fleet.digest
        if job.has_tokens and job.began_as != digest:
            error = f"it began as {job.began_as or 'nobody knows what'}, but its model is served as {digest} now"
            return self._fail(fleet, job, error, "replaced")
        if job.began_as != digest:
            job.began_as = digest
            self._send_begun(job)
        self._send(placed.replica.address, Place(placed.placement, job.ask, [sample.heard() for sample in job.samples]))

    def status(self) -> Status:
        members = [
            ReplicaState(one.name, fleet.model, fleet.identity, one.load, one.capacity, self.now - one.last_word)
            for fleet, one in self._members.values()
            if fleet.identity is not None
        ]
        running = sum(len(one.jobs) for _, one in self._members.values())
        return Status(self.state.value, self._open - running, running, len(self._clients), members, dict(self.counts))

    def _control(self, address: bytes, message: Control) -> None:
        state = after(self.state, message.action)
        if state is None:
            return self._refuse(address, None, f"the coordinator is {self.state.value}; it cannot {message.action}")
        self.state = state
        if state is ControlState.STOPPED:
            for client in list(self._clients.values()):
                for job in list(client.jobs.values()):
                    if job.state in (JobState.WAITING, JobState.PLACED):
                        self._fail(self._fleets[job.ask.model], job, "the coordinator was stopped", "stopped")
            for fleet, replica in list(self._members.values()):
                self._send(replica.address, Stop())
                self._lose(fleet, replica, None)
        self._send(address, self.status())
