"""A world around the coordinator's logic: clients, replicas, a network that keeps the order of each connection, a disk, and time.

Replicas say tokens that follow from prompt, seed, sample and position, so every client knows what it must hear, to the token. Every
message crosses the wire as bytes.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

import msgspec

from brigade.coordinator.machine import Coordinator
from brigade.coordinator.messages import (
    PROTOCOL,
    Abort,
    Accepted,
    Acknowledge,
    Alive,
    Ask,
    Beat,
    Begun,
    Bye,
    Control,
    Enrolled,
    Frame,
    Heard,
    Hello,
    Identity,
    Open,
    Piece,
    Place,
    Refused,
    Register,
    Said,
    Stop,
    Stranger,
    Submit,
    TurnedAway,
    Welcome,
    Withdraw,
    decode_from_client,
    decode_from_replica,
    decode_to_client,
    decode_to_replica,
    encode,
)
from brigade.coordinator.records import Acceptance, Ending, Pinned, Unpinned
from brigade.coordinator.settings import CoordinatorSettings

IDENTITY = Identity("numerics", "fingerprint", 1000)


def token(prompt, seed: int, index: int, position: int) -> int:
    return hash((str(prompt), seed, index, position)) % 50_000


def text_of(token_id: int) -> str:
    return chr(97 + token_id % 26) * (token_id % 3)


@dataclass
class Asked:
    """A client's request, and what it has heard."""

    ask: Ask
    seed: int | None = None
    tokens: list[list[int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    ends: list[str | None] = field(default_factory=list)
    errors: list[str | None] = field(default_factory=list)
    kinds: list[str | None] = field(default_factory=list)  # of the errors
    refused: str | None = None
    began_as: str = ""
    is_aborted: bool = False
    is_accepted: bool = False

    def __post_init__(self) -> None:
        self.tokens = [[] for _ in range(self.ask.n)]
        self.texts = [""] * self.ask.n
        self.ends: list[str | None] = [None] * self.ask.n
        self.errors: list[str | None] = [None] * self.ask.n
        self.kinds: list[str | None] = [None] * self.ask.n

    @property
    def is_over(self) -> bool:
        return self.refused is not None or self.is_aborted or all(end is not None for end in self.ends)

    def heard(self) -> list[Heard]:
        return [Heard(ids, len(text), end is not None) for ids, text, end in zip(self.tokens, self.texts, self.ends, strict=True)]

    def expected(self, index: int) -> list[int]:
        assert self.seed is not None
        return [token(self.ask.prompt, self.seed, index, at) for at in range(self.ask.params["length"])]


class SimClient:
    def __init__(self, world: World, key: bytes) -> None:
        self.world, self.key = world, key
        self.asked: dict[int, Asked] = {}
        self.connections = 0
        self.is_gone = False
        self.connect()

    def connect(self) -> None:
        """A new connection: what was under way on the old one is lost."""
        self.connections += 1
        self.address = b"client " + self.key + b" %d" % self.connections
        self.world.inboxes[self.address] = deque()
        self.hello()

    def hello(self) -> None:
        waiting = [Open(number, one.heard(), one.began_as) for number, one in self.asked.items() if not one.is_over]
        self.say(Hello(PROTOCOL, self.key, waiting))

    def cut(self) -> None:
        self.world.cut(self.address)
        self.connect()

    def say(self, message) -> None:
        self.world.to_coordinator.append((self.address, encode(message)))

    def submit(self, ask: Ask) -> None:
        number = len(self.asked) + 1
        self.asked[number] = Asked(ask)
        self.say(Submit(number, ask))

    def abort(self, number: int) -> None:
        one = self.asked[number]
        if not one.is_over:
            one.is_aborted = True
            self.say(Abort(number))

    def leave(self) -> None:
        self.say(Bye())
        self.is_gone = True

    def hear(self, data: bytes) -> None:
        message = decode_to_client(data)
        if isinstance(message, Welcome):
            for number, seed in message.known.items():
                one = self.asked[number]
                assert one.seed in (None, seed), "the seed of an accepted request has changed"
                one.seed, one.is_accepted = seed, True
            for number, one in self.asked.items():
                if not one.is_over and number not in message.known:
                    ask = one.ask if one.seed is None else msgspec.structs.replace(one.ask, seed=one.seed)
                    self.say(Submit(number, ask, one.heard() if one.seed is not None else [], one.began_as))
        elif isinstance(message, Stranger):
            self.hello()
        elif isinstance(message, Accepted):
            one = self.asked[message.number]
            assert one.seed in (None, message.seed), "the seed of an accepted request has changed"
            one.seed, one.is_accepted = message.seed, True
        elif isinstance(message, Begun):
            self.asked[message.number].began_as = message.identity
        elif isinstance(message, Refused):
            if message.number is not None:
                one = self.asked[message.number]
                one.refused = message.error
                assert not one.is_accepted or self.world.settings.max_requests < 100, "an accepted request was refused"
            elif "max_clients" in message.error:
                self.is_gone = True  # it was never let in
        elif isinstance(message, Said):
            for piece in message.pieces:
                self.take(piece)

    def take(self, piece: Piece) -> None:
        one = self.asked[piece.number]
        if one.is_aborted:
            return
        assert not piece.token_ids or one.began_as == IDENTITY.digest, "a token before what it is computed with"
        assert one.ends[piece.index] is None, "a sample that has ended says more"
        assert piece.start == len(one.tokens[piece.index]), "a token is missing, or came twice"
        one.tokens[piece.index] += piece.token_ids
        one.texts[piece.index] += piece.text
        if piece.finish is not None:
            one.ends[piece.index], one.errors[piece.index], one.kinds[piece.index] = piece.finish, piece.error, piece.kind
            if one.is_over:
                self.say(Acknowledge(piece.number))


class SimReplica:
    def __init__(self, world: World, name: str, capacity: int) -> None:
        self.world, self.name, self.capacity = world, name, capacity
        self.address = b"replica " + name.encode()
        self.world.inboxes[self.address] = deque()
        self.works: dict[int, tuple[Ask, list[list[int]], list[bool]]] = {}
        self.layers = 0
        self.is_frozen = False
        self.is_enrolled = False
        self.register()

    def register(self) -> None:
        self.is_enrolled = False
        self.say(Register(PROTOCOL, self.name, "", IDENTITY, self.capacity, 1000))

    def say(self, message) -> None:
        self.world.to_coordinator.append((self.address, encode(message)))

    def hear(self, data: bytes) -> None:
        message = decode_to_replica(data)
        if isinstance(message, Enrolled):
            self.works.clear()
            self.is_enrolled = True
        elif isinstance(message, TurnedAway):
            if message.then == "end":
                return self.world.kill(self)
            self.works.clear()
            self.register()
        elif isinstance(message, Place):
            assert message.placement not in self.works and message.placement not in self.world.placements
            self.world.placements.add(message.placement)
            ids = [list(one.token_ids) for one in message.heard]
            for index, one in enumerate(message.heard):
                assert sum(len(text_of(i)) for i in one.token_ids) == one.characters
                assert all(token(message.ask.prompt, message.ask.seed, index, at) == i for at, i in enumerate(one.token_ids))
            self.works[message.placement] = (message.ask, ids, [False] * message.ask.n)
        elif isinstance(message, Withdraw):
            self.works.pop(message.placement, None)
        elif isinstance(message, Stop):
            self.world.kill(self)

    def step(self) -> None:
        """One token of everything; a request that kills takes its replica along when it has said so many tokens."""
        pieces = []
        for placement, (ask, ids, ended) in list(self.works.items()):
            for index in range(ask.n):
                if ended[index]:
                    continue
                start = len(ids[index])
                if ask.params.get("kills_at") == start:
                    return self.world.kill(self)
                new = [token(ask.prompt, ask.seed, index, start)] if start < ask.params["length"] else []
                ids[index] += new
                ended[index] = len(ids[index]) == ask.params["length"]
                text = "".join(map(text_of, new))
                pieces.append(Piece(placement, index, start, new, text, "length" if ended[index] else None))
            if all(ended):
                del self.works[placement]
        self.layers += 1
        self.say(Frame(self.layers, pieces) if pieces else Beat(self.layers))


class World:
    def __init__(self, settings: CoordinatorSettings, seed: int) -> None:
        self.random = random.Random(seed)
        self.settings, self.now, self.life = settings, 0.0, 1
        self.disk: list = []
        self.to_coordinator: deque[tuple[bytes, bytes]] = deque()
        self.inboxes: dict[bytes, deque[bytes]] = {}
        self.clients: list[SimClient] = []
        self.replicas: list[SimReplica] = []
        self.placements: set[int] = set()
        self.coordinator = Coordinator(settings, self.now, self.life)
        self.made = 0

    def new_client(self) -> SimClient:
        self.clients.append(SimClient(self, b"%d" % len(self.clients)))
        return self.clients[-1]

    def new_replica(self, capacity: int) -> SimReplica:
        self.made += 1
        self.replicas.append(SimReplica(self, f"replica {self.made}", capacity))
        return self.replicas[-1]

    def kill(self, replica: SimReplica, is_seen: bool = True) -> None:
        """`is_seen`: whether somebody watched its process; else its silence must tell."""
        self.replicas.remove(replica)
        self.cut(replica.address)
        if is_seen:
            self.coordinator.replica_ended(replica.address, "its process ended", self.now)
            self.flush()

    def cut(self, address: bytes) -> None:
        self.to_coordinator = deque(entry for entry in self.to_coordinator if entry[0] != address)
        self.inboxes.pop(address, None)

    def restart(self) -> None:
        """The coordinator is killed: what it was not told yet waits, what it did not write down is gone. Clients connect again."""
        self.life += 1
        pinned: dict[str, Pinned] = {}
        for one in self.disk:
            if isinstance(one, Pinned):
                pinned[one.model] = one
            elif isinstance(one, Unpinned):
                pinned.pop(one.model, None)
        kept = {(one.client, one.number): one for one in self.disk if isinstance(one, Acceptance)}
        for one in self.disk:
            if isinstance(one, Ending):
                kept.pop((one.client, one.number), None)
        self.coordinator = Coordinator(self.settings, self.now, self.life, list(kept.values()), list(pinned.values()))
        for client in self.clients:
            if not client.is_gone:
                client.cut()
        for replica in self.replicas:
            replica.register()

    def flush(self) -> None:
        """Written first, then sent."""
        batch = self.coordinator.take()
        self.disk += batch.records
        for address, message in batch.sends:
            inbox = self.inboxes.get(address)
            if inbox is not None and not isinstance(message, Alive):  # which changes nothing
                inbox.append(encode(message))

    def deliver(self, count: int = 1) -> None:
        """So many messages reach the coordinator."""
        for _ in range(min(count, len(self.to_coordinator))):
            address, data = self.to_coordinator.popleft()
            if address.startswith(b"client"):
                self.coordinator.client_says(address, decode_from_client(data), self.now, self.random.getrandbits(64))
            else:
                self.coordinator.replica_says(address, decode_from_replica(data), self.now)
        self.flush()

    def operate(self, action: str) -> None:
        self.coordinator.operator_says(b"operator", Control(action), self.now)
        self.flush()

    def receive(self, who: SimClient | SimReplica) -> None:
        inbox = self.inboxes.get(who.address)
        if inbox:
            who.hear(inbox.popleft())

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.coordinator.tick(self.now)
        self.flush()

    def settle(self, seconds: float = 500.0) -> None:
        """No more faults: everybody is awake, there is a replica, and time passes until nobody has anything left to say."""
        for replica in self.replicas:
            replica.is_frozen = False
        end = self.now + seconds
        while self.now < end:
            if not self.replicas:
                self.new_replica(4)
            for who in [*self.clients, *self.replicas]:
                if isinstance(who, SimClient) and who.is_gone:
                    continue
                while self.inboxes.get(who.address):
                    self.receive(who)
                if isinstance(who, SimReplica):
                    if who in self.replicas:
                        who.step()
                else:
                    who.say(Alive())
            self.deliver(len(self.to_coordinator))
            if not self.replicas:
                self.coordinator.tick(self.now)
            self.tick(0.25)
            if self.is_quiet and not any(self.inboxes.get(client.address) for client in self.clients if not client.is_gone):
                return
        raise AssertionError(f"after {seconds} s: {self.coordinator.status()}")

    @property
    def is_quiet(self) -> bool:
        open_asked = [one for client in self.clients if not client.is_gone for one in client.asked.values() if not one.is_over]
        gone = {client.key for client in self.clients if client.is_gone}  # whose last word may not have arrived: time forgets them
        return not open_asked and not any(one.jobs for one in self.coordinator._clients.values() if one.key not in gone)
