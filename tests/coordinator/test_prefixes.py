"""What a replica is thought to hold of prompts that it was sent: bounded, and put right by what it says that it had."""

from __future__ import annotations

from brigade.coordinator.job import Job
from brigade.coordinator.messages import PROTOCOL, Ask, Frame, Identity, Piece, Register
from brigade.coordinator.replica import CHUNK, Replica, Router, prompt_keys
from tests.coordinator.test_machine import ask, world

LENGTH = CHUNK[list]


def replica(name: str = "one", most: int = 100) -> Replica:
    return Replica(name, name.encode(), 4, most, 0.0, 0.0)


def job(first: int, chunks: int = 4, number: int = 1) -> Job:
    made = Job(b"client", number, Ask("", [first] * (LENGTH * chunks)), None)
    made.keys = prompt_keys(made.ask.prompt)
    return made


def send(to: Replica, one: Job) -> None:
    to.put(len(to.jobs), one, one.keys or (), 0.0)


def test_who_was_sent_most_of_a_prompt_is_asked_again() -> None:
    here, there = replica("here"), replica("there")
    send(here, job(1))
    send(there, job(2))
    assert Router("prefix").choose([here, there], job(2)) is there and Router("prefix").choose([here, there], job(1)) is here


def test_it_never_has_more_than_its_cache_can_hold() -> None:
    one = replica(most=10)
    for first in range(50):
        send(one, job(first))
    assert len(one.prefixes) == 10 and one.known(job(49).keys) == 4 and one.known(job(40).keys) == 0


def test_what_it_did_not_have_any_more_is_forgotten_with_all_that_is_older() -> None:
    one = replica()
    for first in range(10):
        send(one, job(first))
    again = job(3)
    send(one, again)
    assert len(again.ages) == 4 and again.ages[0] > again.ages[3] == 24
    one.learn(again, cached=0, total=4 * LENGTH)
    assert one.known(job(0).keys) == one.known(job(1).keys) == 0 and one.known(job(9).keys) == 4
    assert one.known(again.keys) == 4, "it has just computed that"


def test_what_it_had_lets_it_be_trusted_further_again() -> None:
    one = replica()
    for first in range(10):
        send(one, job(first))
    again = job(3)
    send(one, again)
    one.learn(again, 0, 4 * LENGTH)
    before = one.reach
    for _ in range(40):
        again = job(3)
        send(one, again)
        one.learn(again, 4 * LENGTH - 10, 4 * LENGTH)  # all but the last, which a block's border cuts
    assert before < one.reach == one.most_prefixes


def test_words_about_what_was_not_expected_change_nothing() -> None:
    one = replica()
    send(one, job(4))
    for word in ((job(1), 0, 4 * LENGTH), (job(2), 5, 0), (job(3), -5, -1), (job(4), -100, 1), (job(4), 10**30, 1)):
        send(one, word[0])
        one.learn(*word)
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
    assert one.reach < one.most_prefixes
