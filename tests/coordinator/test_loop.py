"""The loop with real sockets: what the simulated world shows of the logic, over connections that break."""

from __future__ import annotations

import random
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from brigade.coordinator.journal import Journal
from brigade.coordinator.loop import Loop
from brigade.coordinator.messages import (
    PROTOCOL,
    Ask,
    Control,
    Frame,
    Hello,
    Identity,
    Look,
    Register,
    Status,
    Submit,
    decode_to_client,
    encode,
)
from brigade.coordinator.settings import CoordinatorSettings
from brigade.errors import ConfigError
from tests.coordinator.wires import Wires
from tests.coordinator.world import SimReplica


@pytest.fixture
def wires(tmp_path: Path) -> Iterator[Wires]:
    made = Wires(tmp_path)
    yield made
    made.close()


def ask(number: int, length: int = 30) -> Ask:
    return Ask("", f"prompt {number}", n=1 + number % 3, seed=None if number % 2 else number, params={"length": length})


def test_requests_of_several_clients_are_served(wires: Wires) -> None:
    for _ in range(2):
        wires.new_replica()
    for _ in range(3):
        client = wires.new_client()
        for number in range(10):
            client.submit(ask(number))
    wires.until(wires.all_over)
    wires.check()
    wires.until(lambda: not any(client.jobs for client in list(wires.loop.machine._clients.values())))  # the words are under way
    wires.stop()
    assert Journal(wires.folder / "journal").kept() == [], "everything was acknowledged"


def test_it_knows_whether_a_replica_has_ever_joined(wires: Wires) -> None:
    assert not wires.loop.has_had_replica()
    wires.new_replica(8)
    wires.until(wires.loop.has_had_replica)


def test_no_failure_is_seen(wires: Wires) -> None:
    """Replicas that die, connections that are cut, and a coordinator that is ended in the middle of everything and comes back."""
    chance = random.Random(1)
    for _ in range(3):
        wires.new_replica()
    for _ in range(2):
        client = wires.new_client()
        for number in range(12):
            client.submit(ask(number, 60))
    for round_ in range(12):
        for _ in range(5):
            wires.turn()
            time.sleep(0.002)
        if round_ % 4 == 3:
            wires.stop()
            wires.begin()
        elif round_ % 4 == 1:
            wires.kill(chance.choice(wires.replicas))
            wires.new_replica()
        else:
            chance.choice(wires.clients).cut()
    wires.until(wires.all_over, 60)
    wires.check()


MALFORMED = [
    b"",
    b"\xc1",
    b"\x81",
    b"\x90" * 5000,
    b"\xff" * 100,
    b"\x81\xa4type\xa5hel\xffo",
    encode(["hello"]),
    encode({"type": "hello"}),
    encode({"type": "place"}),
    encode({"type": "hello", "protocol": "1", "key": b"x"}),
    encode({"type": "hello", "protocol": PROTOCOL, "key": b"x", "more": 1}),
    encode({"type": "frame", "layers": 2**63, "pieces": [[1, 2]]}),
]


def test_ten_thousand_messages_that_are_none_harm_nobody(wires: Wires) -> None:
    chance = random.Random(2)
    wires.new_replica()
    client = wires.new_client()
    for number in range(4):
        client.submit(ask(number, 400))
    wires.until(lambda: all(one.tokens[0] for one in client.asked.values()))
    strangers = [wires.context.socket(zmq.DEALER) for _ in range(4)]
    for number, socket in enumerate(strangers):
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.connect(wires.ports[number % 2])
    before = 0
    for number in range(10_000):
        data = chance.choice(MALFORMED) if chance.random() < 0.7 else chance.randbytes(chance.randint(0, 300))
        chance.choice(strangers).send_multipart([data] * (1 if chance.random() < 0.9 else 3))
        if number == 2000:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if number % 50 == 0:
            wires.turn()
    wires.until(lambda: wires.loop.machine.counts["messages that were none"] > 9_000)
    wires.until(wires.all_over)
    wires.check()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10, "memory grows"
    assert 1 <= len(wires.said) <= 20 and all("messages dropped: a" in line for line in wires.said), wires.said
    for socket in strangers:
        socket.close(0)


def test_a_message_that_is_too_large_ends_its_connection_alone(wires: Wires, monkeypatch) -> None:
    wires.stop()
    monkeypatch.setattr("brigade.coordinator.loop.MAX_MESSAGE", 10_000)
    wires.begin()
    wires.new_replica()
    client = wires.new_client()
    client.submit(ask(1, 100))
    stranger = wires.context.socket(zmq.DEALER)
    stranger.connect(wires.ports[0])
    stranger.send(bytes(1_000_000))
    wires.until(wires.all_over)
    wires.check()
    stranger.close(0)


LARGE = msgspec.Raw(msgspec.msgpack.encode(bytes(400_000)))


class WordyReplica(SimReplica):
    """Says so much with each token that no buffer on the way takes many of them."""

    def say(self, message) -> None:
        if isinstance(message, Frame):
            pieces = [msgspec.structs.replace(piece, rest=LARGE) for piece in message.pieces]
            message = msgspec.structs.replace(message, pieces=pieces)
        super().say(message)


def test_a_client_that_does_not_read_is_cut_off_and_goes_on_when_it_reads_again(monkeypatch) -> None:
    """What waits for it is bounded: 20 messages here, and what the wire itself holds. Nobody else notices."""
    monkeypatch.setattr("brigade.coordinator.loop.HIGH_WATER", 20)
    wires = Wires(client_timeout=3600, client_grace=3600)  # so that it is not its silence
    try:
        slow = b"client 0 1"  # its address: it has little room on its own side
        wires.sockets[slow] = wires.context.socket(zmq.DEALER)
        wires.sockets[slow].setsockopt(zmq.RCVHWM, 10)
        wires.sockets[slow].setsockopt(zmq.RCVBUF, 1 << 16)
        wires.sockets[slow].connect(wires.ports[0])
        wires.replicas.append(WordyReplica(wires, "wordy", 4))
        client, other = wires.new_client(), wires.new_client()
        assert client.address == slow
        client.submit(ask(0, 300))
        wires.until(lambda: bool(client.asked[1].tokens[0]))
        machine, unread = wires.loop.machine, wires.sockets.pop(slow)
        wires.clients.remove(client)
        known, asked = machine._clients[client.key], client.asked[1]
        wires.until(lambda: not any(one.jobs for _, one in machine._members.values()))
        said = machine.counts["tokens"]
        assert known.address is None and known.jobs, "it ended, and all that it said lies here"
        assert len(asked.tokens[0]) + 20 < said < 250, "it was cut off too early, or after too much"
        other.submit(ask(1, 20))
        wires.until(lambda: other.asked[1].is_over)
        assert known.address is None and machine.counts["tokens"] == said + 2 * 20, "nothing more is computed for it"
        wires.sockets[slow] = unread
        wires.clients.append(client)
        wires.until(wires.all_over)
        wires.check()
        assert len(asked.tokens[0]) == 300 and client.connections == 1
    finally:
        wires.close()


def test_it_says_how_it_is_and_stops_when_it_is_told(wires: Wires) -> None:
    replica, client = wires.new_replica(), wires.new_client()
    client.submit(ask(1, 100_000))
    wires.until(lambda: bool(client.asked[1].tokens[0]))
    asking = wires.context.socket(zmq.DEALER)
    asking.connect(wires.ports[0])
    asking.send(encode(Look()))
    status = decode_to_client(asking.recv())
    assert isinstance(status, Status) and (status.state, status.running, status.clients) == ("running", 1, 1)
    assert [(one.name, one.capacity) for one in status.replicas] == [(replica.name, replica.capacity)]
    asking.send(encode(Control("stop")))  # which is no client's to ask
    wires.until(lambda: wires.loop.machine.counts["messages that were none"] == 1)
    asking.close(0)
    asking = wires.context.socket(zmq.DEALER)
    asking.connect(wires.ports[2])
    asking.send(encode(Control("stop")))
    answer = decode_to_client(asking.recv())
    assert isinstance(answer, Status) and answer.state == "stopped"
    wires.until(wires.all_over)
    assert set(client.asked[1].errors) == {"the coordinator was stopped"} and set(client.asked[1].kinds) == {"stopped"}
    assert wires.replicas == []
    wires.thread.join(10)
    assert not wires.thread.is_alive()
    asking.close(0)


def test_a_journal_that_cannot_be_written_ends_it_with_its_error(wires: Wires) -> None:
    wires.loop._journal._file.execute("PRAGMA query_only=ON")
    client = wires.new_client()
    client.submit(ask(1))
    wires.thread.join(10)
    assert isinstance(wires.error, ConfigError) and "journal" in str(wires.error) and "mend or move" in str(wires.error)
    wires.turn()
    assert not client.asked[1].is_accepted, "nothing that was not written was promised"


@pytest.mark.parametrize("address", ["tcp://1.2.3.4:1", "tcp://nowhere", "carrier-pigeon://x", "tcp://127.0.0.1:70000"])
def test_an_address_that_cannot_be_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot listen on {address}"):
        Loop(CoordinatorSettings(), address, "tcp://127.0.0.1:*")


def test_an_address_in_use_is_refused(wires: Wires) -> None:
    with pytest.raises(ConfigError, match="Address already in use; give another address"):
        Loop(CoordinatorSettings(), wires.ports[0], "tcp://127.0.0.1:*")


def test_a_message_is_msgpack_with_its_tag() -> None:
    said = Hello(PROTOCOL, b"key", [])
    assert msgspec.msgpack.decode(encode(said)) == {"type": "hello", "protocol": PROTOCOL, "key": b"key", "open": []}


@pytest.mark.parametrize("place", ["params", "defaults"])
def test_a_key_that_is_a_mapping_ends_nobody_but_its_message(wires: Wires, place: str) -> None:
    """Which the decoder tells by an error of Python's own."""
    inner = {"key": 1}
    card = Register(PROTOCOL, "x", "", Identity("n", "f", 9, inner), 4)
    said = Submit(1, Ask("", "a", params=inner)) if place == "params" else card
    bad = encode(said).replace(msgspec.msgpack.encode(inner), b"\x81\x80\x01")
    socket = wires.context.socket(zmq.DEALER)
    socket.connect(wires.ports[0 if place == "params" else 1])
    socket.send(bad)
    wires.until(lambda: wires.loop.machine.counts["messages that were none"] == 1)
    wires.new_replica()
    client = wires.new_client()
    client.submit(ask(3))
    wires.until(wires.all_over)
    wires.check()
    socket.close(0)
