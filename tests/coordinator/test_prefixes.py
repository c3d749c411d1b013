"""What a replica is thought to hold of prompts that it was sent: bounded, and put right by what it says that it had."""

from __future__ import annotations

from brigade.coordinator.job import Job
from brigade.coordinator.messages import PROTOCOL, Ask, Frame, Identity, Piece, Register
from brigade.coordinator.prefixes import CHUNK, Prefixes, prompt_keys
from brigade.coordinator.replica import Replica, Router
from tests.coordinator.test_machine import ask, world

LENGTH = CHUNK[list]


def keys(first: int, chunks: int = 4) -> list[bytes]:
    return prompt_keys([first] * (LENGTH * chunks))


def after(count: int) -> Prefixes:
    """So many prompts were sent there, of four chunks each."""
    made = Prefixes(100)
    for first in range(count):
        made.send(keys(first))
    return made


def test_who_was_sent_most_of_a_prompt_is_asked_again() -> None:
    here, there = (Replica(name, name.encode(), 4, Prefixes(100), 0.0, 0.0) for name in ("here", "there"))
    here.prefixes.send(keys(1))
    there.prefixes.send(keys(2))
    for first, chosen in ((1, here), (2, there)):
        job = Job(b"client", 1, Ask("", [first] * (LENGTH * 4)), None)
        assert Router("prefix").choose([here, there], job) is chosen


def test_it_never_has_more_than_its_cache_can_hold() -> None:
    one = Prefixes(10)
    for first in range(50):
        one.send(keys(first))
    assert len(one) == 10 and one.known(keys(49)) == 4 and one.known(keys(40)) == 0


def test_what_it_did_not_have_any_more_is_forgotten_with_all_that_is_older() -> None:
    one = after(10)
    ages = one.send(keys(3))
    assert len(ages) == 4 and ages[0] > ages[3] == 24
    one.learn(keys(3), ages, cached=0, total=4 * LENGTH)
    assert one.known(keys(0)) == one.known(keys(1)) == 0 and one.known(keys(9)) == 4
    assert one.known(keys(3)) == 4, "it has just computed that"


def test_what_it_had_lets_it_be_trusted_further_again() -> None:
    one = after(10)
    one.learn(keys(3), one.send(keys(3)), 0, 4 * LENGTH)
    before = one.reach
    for _ in range(40):
        one.learn(keys(3), one.send(keys(3)), 4 * LENGTH - 10, 4 * LENGTH)  # all but the last, which a block's border cuts
    assert before < one.reach == one.most


def test_words_about_what_was_not_expected_change_nothing() -> None:
    one = after(5)
    for first, cached, total in ((11, 0, 4 * LENGTH), (12, 5, 0), (3, -5, -1), (4, -100, 1), (4, 10**30, 1)):
        one.learn(keys(first), one.send(keys(first)), cached, total)
    one.learn([], [], 0, 4 * LENGTH)
    assert one.reach == 100


def test_the_words_come_with_the_frame_of_an_end() -> None:
    made = world(routing="prefix")
    card = Register(PROTOCOL, "one", "", Identity("n", "f", 10**6), 4, cache=64 * LENGTH)
    made.coordinator.replica_says(b"replica", card, 0.0)
    client = made.new_client()
    for _ in range(2):
        client.submit(ask(prompt=[5] * 300))
        made.deliver(10)
        ((_, one),) = made.coordinator._members.values()
        (placement,) = one.jobs
        frame = Frame(1, [Piece(placement, 0, 0, [1], "", "length")], [(placement, 0, 300), (10**9, 0, 300)])
        made.coordinator.replica_says(b"replica", frame, 0.0)
        made.coordinator.take()
    assert one.prefixes.reach < one.prefixes.most
