"""The coordinator's logic in simulated time: what each part does, one by one."""

from __future__ import annotations

import json

import msgspec
import pytest

from brigade.coordinator.messages import (
    PROTOCOL,
    Abort,
    Accepted,
    Alive,
    Ask,
    Beat,
    Bye,
    Control,
    Enrolled,
    Frame,
    Heard,
    Hello,
    Identity,
    Leaving,
    Look,
    Open,
    Piece,
    Refused,
    Register,
    Rejected,
    Stranger,
    Submit,
    TurnedAway,
    Welcome,
)
from brigade.coordinator.settings import CoordinatorSettings
from tests.coordinator.world import IDENTITY, World


def ask(length: int = 5, **more) -> Ask:
    params = {"length": length} | more.pop("params", {})
    return Ask("", more.pop("prompt", "once upon a time"), params=params, **more)


def world(**settings) -> World:
    return World(CoordinatorSettings(**settings), 1)


def check(made: World, *failed: int) -> None:
    """Every request but those has said what it says undisturbed, and nothing is left of any."""
    for client in made.clients:
        for number, one in client.asked.items():
            if one.is_accepted and not one.is_aborted and number not in failed:
                for index, said in enumerate(one.tokens):
                    assert said == one.expected(index) and one.ends[index] == "length", one
    assert made.coordinator.status().running == made.coordinator.status().waiting == 0


def test_a_request_is_served() -> None:
    made = world()
    made.new_replica(4)
    client = made.new_client()
    client.submit(ask(7, n=3))
    made.settle()
    check(made)


def test_it_waits_for_a_replica_and_is_told_when_none_comes() -> None:
    made = world(no_replica_timeout=5)
    client = made.new_client()
    client.submit(ask())
    made.deliver(10)
    made.tick(4)
    client.say(Hello(PROTOCOL, client.key, []))  # the same client, which has nothing open any more
    made.deliver(10)
    client.submit(ask())
    made.deliver(10)
    made.tick(4.5)
    client.say(Look())
    made.deliver(10)
    made.tick(0.6)
    while made.inboxes[client.address]:
        made.receive(client)
    assert client.asked[2].errors == ["there was no replica of model '' for 5 s"] and client.asked[2].kinds == ["no replica"]
    assert made.coordinator.status().waiting == 0


def half_done(made: World, *asks: Ask, steps: int = 3):
    """A client whose requests have all said so many tokens."""
    replica, client = made.new_replica(8), made.new_client()
    for one in asks:
        client.submit(one)
    made.deliver(10)
    for _ in range(steps):
        while made.inboxes[replica.address]:
            made.receive(replica)
        replica.step()
        made.deliver(10)
    while made.inboxes[client.address]:
        made.receive(client)
    assert all(len(ids) == steps for one in client.asked.values() for ids in one.tokens)
    return client, replica


@pytest.mark.parametrize("is_seen", [True, False], ids=["seen", "silent"])
def test_requests_of_a_replica_that_is_gone_go_on_elsewhere(is_seen: bool) -> None:
    made = world()
    half_done(made, ask(8), ask(9, n=2))
    made.kill(made.replicas[0], is_seen)
    made.new_replica(2)
    made.settle()
    check(made)
    assert made.coordinator.counts["replicas lost"] == 1


def test_a_replica_that_wakes_after_it_was_given_up_delivers_nothing() -> None:
    made = world(client_timeout=100)
    client, old = half_done(made, ask(20))
    old.is_frozen = True
    made.tick(10)
    assert made.coordinator.counts["replicas lost"] == 1
    old.step()
    old.step()
    before = [list(ids) for ids in client.asked[1].tokens]
    made.deliver(10)
    while made.inboxes[client.address]:
        made.receive(client)
    assert client.asked[1].tokens == before
    assert made.coordinator.counts["frames of replicas that were given up"] == 2
    made.settle()
    check(made)


def test_one_that_finishes_no_layer_hangs_though_it_gives_signs_of_life() -> None:
    made = world(hang_timeout=30, client_timeout=1000)
    _, replica = half_done(made, ask(20))
    for _ in range(5):
        made.tick(5.9)
        replica.say(Beat(replica.layers))
        made.deliver(10)
    assert made.coordinator.counts["replicas lost"] == 0
    made.tick(1)
    assert made.coordinator.counts["replicas lost"] == 1
    while made.inboxes.get(replica.address):
        made.receive(replica)
    assert replica not in made.replicas, "it has ended, and comes back for no other request"
    made.settle()
    check(made)


def test_one_that_still_reads_its_request_does_not_hang_until_the_request_has_begun() -> None:
    made = world(hang_timeout=30, client_timeout=1000)
    _, replica = half_done(made, ask(20))
    for _ in range(20):
        made.tick(5.9)
        replica.say(Beat(replica.layers, is_reading=True))
        made.deliver(10)
    assert made.coordinator.counts["replicas lost"] == 0
    for _ in range(5):
        replica.say(Beat(replica.layers))
        made.deliver(10)
        made.tick(5.9)
    assert made.coordinator.counts["replicas lost"] == 0
    made.tick(1)
    assert made.coordinator.counts["replicas lost"] == 1
    made.settle()
    check(made)


def test_a_client_that_comes_back_goes_on_where_it_stands() -> None:
    made = world(client_grace=20)
    client, replica = half_done(made, ask(12, n=2))
    replica.step()
    made.deliver(10)  # sent, and lost with the connection
    client.cut()
    made.settle()
    check(made)


def test_one_that_does_not_come_back_has_its_requests_aborted() -> None:
    made = world(client_timeout=3, client_grace=4)
    client, replica = half_done(made, ask(1000))
    made.tick(3)
    made.deliver(1)
    made.receive(replica)
    assert replica.works == {}, "its blocks are free"
    made.tick(3.9)
    assert made.coordinator.status().waiting == 1
    made.tick(0.2)
    assert made.coordinator.status().waiting == 0 and made.coordinator.status().clients == 0


def test_a_farewell_that_is_read_after_the_connection_was_found_gone_counts() -> None:
    made = world(client_grace=100)
    client, replica = half_done(made, ask(1000))
    made.coordinator.cut_off(client.address, made.now)
    assert made.coordinator.status().clients == 1, "it may come back"
    client.leave()
    made.deliver(len(made.to_coordinator))
    made.receive(replica)
    assert made.coordinator.status().clients == 0 and replica.works == {}


def test_a_farewell_of_an_earlier_connection_ends_nothing() -> None:
    made = world(client_grace=100)
    client, _ = half_done(made, ask(12))
    earlier = client.address
    made.coordinator.cut_off(earlier, made.now)
    client.connect()
    made.deliver(len(made.to_coordinator))
    made.coordinator.client_says(earlier, Bye(), made.now)
    assert made.coordinator.status().clients == 1
    made.settle()
    check(made)


def test_after_a_restart_every_accepted_request_goes_on() -> None:
    made = world()
    half_done(made, ask(9), ask(10, n=3))
    made.restart()
    assert made.coordinator.status().waiting == 2, "before any client has said a word"
    made.settle()
    check(made)


def test_another_numerics_id_or_model_is_turned_away_with_both_ids() -> None:
    made = world()
    made.new_replica(1)
    made.deliver(10)
    for other in (
        Identity("other", "fingerprint", 1000),
        Identity("numerics", "another", 1000),
        Identity("numerics", "fingerprint", 9),
    ):
        made.coordinator.replica_says(b"replica x", Register(PROTOCOL, "x", "", other, 1), made.now)
        ((_, said),) = made.coordinator.take().sends
        assert isinstance(said, TurnedAway)
        for name in (name for name in other.__struct_fields__ if getattr(other, name) != getattr(IDENTITY, name)):
            word = str(getattr(other, name))
            assert word in said.error and "replica x" in said.error
    made.coordinator.replica_says(b"replica x", Register(PROTOCOL, "x", "second model", other, 1), made.now)
    assert [type(said).__name__ for _, said in made.coordinator.take().sends] == ["Enrolled"]


def test_a_poisonous_request_is_ended_and_its_neighbours_are_not() -> None:
    made = world()
    client = made.new_client()
    client.submit(ask(30, params={"kills_at": 7}, prompt="poison"))
    for number in range(6):
        client.submit(ask(20 + number))
    for _ in range(12):
        made.new_replica(4)
    made.settle()
    poison = client.asked[1]
    assert poison.ends == ["error"] and "3 replicas ended one after the other" in (poison.errors[0] or "")
    assert poison.tokens[0] == poison.expected(0)[:7]
    check(made, 1)
    assert made.coordinator.counts["replicas lost"] == 6, "three in company, and three alone"


def test_a_request_that_says_a_token_between_two_losses_never_runs_alone() -> None:
    made = world()
    client, _ = half_done(made, ask(40))
    for _ in range(10):
        made.kill(made.replicas[0])
        replica = made.new_replica(2)
        made.deliver(10)
        while made.inboxes[replica.address]:
            made.receive(replica)
        replica.step()
        made.deliver(10)
        job = made.coordinator._clients[client.key].jobs[1]
        assert job.lost == 0 and not job.runs_alone
    made.settle()
    check(made)


def test_one_client_with_many_does_not_starve_one_with_one() -> None:
    made = world()
    greedy, modest = made.new_client(), made.new_client()
    for _ in range(100):
        greedy.submit(ask(2))
    made.deliver(200)
    modest.submit(ask(2))
    made.deliver(1)
    replica = made.new_replica(2)
    made.deliver(10)
    while made.inboxes[replica.address]:
        made.receive(replica)
    assert len(replica.works) == 2
    keys = [job.client for job in made.coordinator._fleets[""].replicas["replica 1"].jobs.values()]
    assert sorted(keys) == [greedy.key, modest.key]


def test_a_lower_priority_number_goes_first() -> None:
    made = world()
    client = made.new_client()
    client.submit(ask(2, priority=5, prompt="late"))
    client.submit(ask(2, priority=-1, prompt="early"))
    made.deliver(10)
    replica = made.new_replica(1)
    made.deliver(10)
    while made.inboxes[replica.address]:
        made.receive(replica)
    assert [one.prompt for one, *_ in replica.works.values()] == ["early"]


def test_beyond_the_bound_it_is_refused_at_once() -> None:
    made = world(max_requests=3, max_requests_of_client=2)
    one, two = made.new_client(), made.new_client()
    for client in (one, two):
        for _ in range(3):
            client.submit(ask())
    made.deliver(20)
    for client in (one, two):
        while made.inboxes[client.address]:
            made.receive(client)
    assert "max_requests_of_client takes no more" in (one.asked[3].refused or "")
    assert [bool(each.refused) for each in two.asked.values()] == [False, True, True]
    assert "max_requests takes no more" in (two.asked[2].refused or "")
    made.new_replica(4)
    made.settle()


def test_a_deadline_ends_a_request_with_an_error_that_says_so() -> None:
    made = world(client_timeout=100, replica_timeout=100)
    client, replica = half_done(made, ask(1000, deadline=2.5), ask(5))
    made.tick(2.6)
    while made.inboxes[client.address]:
        made.receive(client)
    assert client.asked[1].errors == ["its deadline of 2.5 s has passed"] and client.asked[2].ends == [None]
    made.settle()
    check(made, 1)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (Submit(1, ask(n=0)), "n is 0; it must be from 1 to 1024"),
        (Submit(1, ask(seed=-1)), "seed is -1"),
        (Submit(-1, ask()), "number is -1"),
        (Submit(1, ask(priority=2**40)), "priority is 1099511627776"),
        (Submit(1, ask(seed=1), [Heard([-1])]), "what was heard of each"),
        (Submit(1, ask(seed=1), [Heard([1], -5)]), "what was heard of each"),
        (Submit(1, ask(seed=1), [Heard([1])] * 2), "what was heard of each"),
        (Submit(1, ask(), [Heard([1])]), "names its seed"),
        (Submit(1, ask(seed=1), [Heard([1], 1, True)]), "nothing is left of it"),
        (Submit(1, ask(deadline=float("nan"))), "deadline is nan"),
        (Submit(1, msgspec.structs.replace(ask(), model="m" * 300)), "more than 200 characters"),
        (Submit(1, ask(params={"x": json.loads("[" * 20 + "]" * 20)})), "nested more than 8 deep"),
        (Submit(1, ask(), began_as="x" * 300), "began_as has 300 characters"),
        (Hello(PROTOCOL + 1, b"x"), f"speaks protocol {PROTOCOL + 1}, the coordinator {PROTOCOL}"),
        (Hello(PROTOCOL, b""), "has 0 bytes; give 1 to 64"),
        (Hello(PROTOCOL, b"x" * 65), "has 65 bytes; give 1 to 64"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_words(said, error: str) -> None:
    made = world()
    client = made.new_client()
    made.deliver(1)
    made.coordinator.take()
    made.coordinator.client_says(client.address, said, made.now)
    ((_, answer),) = made.coordinator.take().sends
    assert error in answer.error


def test_an_operator_is_told_what_cannot_be_asked_now() -> None:
    made = world()
    made.coordinator.operator_says(b"operator", Control("resume"), 0.0)
    ((_, answer),) = made.coordinator.take().sends
    assert "the coordinator is running; it cannot resume" in answer.error


def test_a_client_that_is_known_hears_a_sign_of_life_in_return() -> None:
    made = world()
    client = made.new_client()
    made.deliver(1)
    made.coordinator.client_says(client.address, Alive(), 0.0)
    made.coordinator.client_says(b"stranger", Alive(), 0.0)
    assert [type(message) for _, message in made.coordinator.take().sends] == [Alive, Stranger]


def test_a_replica_whose_connection_was_lost_takes_its_own_name_again_and_another_does_not() -> None:
    made = world()
    card = Register(PROTOCOL, "one", "", IDENTITY, 4, life=b"a")
    made.coordinator.replica_says(b"first", card, 0.0)
    made.coordinator.take()
    made.coordinator.replica_says(b"other", msgspec.structs.replace(card, life=b"b"), 0.0)
    made.coordinator.replica_says(b"nobody", msgspec.structs.replace(card, life=b""), 0.0)
    answers = [message for _, message in made.coordinator.take().sends]
    assert [(type(one), one.then) for one in answers] == [(TurnedAway, "wait")] * 2
    made.coordinator.replica_says(b"second", card, 0.0)
    assert [type(message) for _, message in made.coordinator.take().sends] == [Enrolled]
    assert made.coordinator.has_replica(b"second") and not made.coordinator.has_replica(b"first")
    assert made.coordinator.counts["replicas lost"] == 0, "no request is to blame"


@pytest.mark.parametrize(("error", "lost"), [(None, 0), ("its memory is full", 1)])
def test_a_replica_that_leaves_says_whether_something_was_to_blame(error: str | None, lost: int) -> None:
    made = world()
    _, replica = half_done(made, ask(9))
    replica.say(Leaving(error))
    made.deliver(10)
    made.kill(replica)
    assert made.coordinator.counts["replicas lost"] == lost
    made.settle()
    check(made)


@pytest.mark.parametrize(
    "other",
    [
        {"numerics_id": "x"},
        {"fingerprint": "x"},
        {"positions": 7},
        {"defaults": {"top_k": 3}},
        {"has_tokenizer": False},
        {"vocab_size": 9},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_replica_that_would_say_something_else_is_turned_away_for_good(other: dict) -> None:
    made = world()
    made.coordinator.replica_says(b"first", Register(PROTOCOL, "one", "", IDENTITY, 4), 0.0)
    made.coordinator.take()
    unlike = msgspec.structs.replace(IDENTITY, **other)
    made.coordinator.replica_says(b"second", Register(PROTOCOL, "two", "", unlike, 4), 0.0)
    ((_, answer),) = made.coordinator.take().sends
    (name, value), *_ = other.items()
    assert isinstance(answer, TurnedAway) and answer.then == "end"
    assert f"{name} of replica two is {value}, but model '' is served with {getattr(IDENTITY, name)}" in answer.error


def test_what_runs_may_come_back_where_newcomers_may_not() -> None:
    made = world(max_requests=1, max_clients=1)
    client = made.new_client()
    client.submit(ask())
    made.deliver(10)
    goes_on = Submit(9, ask(seed=1), [Heard([1], 0)])
    made.coordinator.client_says(client.address, Submit(8, ask()), 0.0)
    made.coordinator.client_says(client.address, goes_on, 0.0)
    made.coordinator.client_says(b"other", Hello(PROTOCOL, b"other"), 0.0)
    made.coordinator.client_says(b"known", Hello(PROTOCOL, b"known", [Open(1, [Heard([1], 0)])]), 0.0)
    answers = [message for _, message in made.coordinator.take().sends]
    assert [type(one) for one in answers] == [Refused, Accepted, Refused, Welcome]


def test_an_error_is_not_as_long_as_somebody_makes_it() -> None:
    made = world()
    client, replica = half_done(made, ask(9, n=3))
    replica.say(Rejected(next(iter(replica.works)), "x" * 10**6))
    made.deliver(10)
    while made.inboxes[client.address]:
        made.receive(client)
    assert client.asked[1].errors == ["x" * 1000] * 3


def test_who_says_no_hello_is_told() -> None:
    made = world()
    made.coordinator.client_says(b"stranger", Submit(1, ask()), 0.0)
    ((_, answer),) = made.coordinator.take().sends
    assert isinstance(answer, Stranger) and made.coordinator.status().waiting == 0


@pytest.mark.parametrize(
    "wrong",
    [lambda number: Piece(number, 0, 7, [1]), lambda number: Piece(number, 4, 0, [1]), lambda number: Piece(number, -1, 3, [1])],
    ids=["another place", "no such sample", "a negative sample"],
)
def test_a_replica_that_makes_no_sense_is_given_up_and_its_requests_are_not(wrong) -> None:
    made = world()
    _, replica = half_done(made, ask(9))
    (placement,) = replica.works
    replica.say(Frame(99, [wrong(placement)]))
    made.deliver(10)
    assert made.coordinator.counts["replicas that made no sense"] == 1 and not made.coordinator._members
    made.settle()
    check(made)


def test_paused_nothing_begins_and_drained_nothing_new_is_taken() -> None:
    made = world()
    client = made.new_client()
    made.operate("pause")
    client.submit(ask())
    replica = made.new_replica(2)
    made.deliver(10)
    made.receive(replica)
    assert not replica.works and made.coordinator.status().waiting == 1
    made.operate("drain")
    client.submit(ask())
    made.deliver(10)
    made.settle()
    assert "draining and takes no new request" in (client.asked[2].refused or "")
    check(made)
    made.operate("stop")
    made.receive(replica)
    assert made.replicas == [] and made.coordinator.state.value == "stopped"


def test_a_thousand_submissions_that_are_aborted_leave_nothing_behind() -> None:
    made = world()
    client = made.new_client()
    for number in range(1, 5001):
        client.submit(ask())
        client.abort(number)
        made.deliver(2)
    made.deliver(10)
    queue = made.coordinator._fleets[""].waiting
    assert queue.count == 0 and sum(len(each) for level in queue._levels.values() for each in level.queues.values()) < 1500


def said_to(made: World, address: bytes) -> list:
    from brigade.coordinator.messages import decode_to_client

    return [decode_to_client(data) for data in made.inboxes[address]]


def test_hello_said_twice_on_one_connection_changes_nothing() -> None:
    made = world()
    client, replica = half_done(made, ask(9))
    replica.step()
    made.deliver(1)
    client.hello()  # before it reads what was sent
    made.deliver(1)
    made.settle()
    check(made)
    assert len(made.placements) == 1


def test_a_number_that_is_used_again_hears_nothing_of_the_old_request() -> None:
    made = world()
    client, replica = half_done(made, ask(9))
    made.deliver(10)
    while made.inboxes[client.address]:
        made.receive(client)
    replica.step()
    client.say(Abort(1))
    client.say(Submit(1, ask(5, prompt="another")))
    before = len(made.inboxes[client.address])
    made.deliver(10)
    assert [type(one).__name__ for one in said_to(made, client.address)[before:]] == ["Accepted", "Begun"]


def test_a_name_that_is_taken_is_turned_away_and_its_owner_works_on() -> None:
    made = world()
    _, replica = half_done(made, ask(9))
    made.coordinator.replica_says(b"another", Register(PROTOCOL, replica.name, "", IDENTITY, 1), made.now)
    ((address, said),) = made.coordinator.take().sends
    assert address == b"another" and "there is a replica of the name replica 1 already" in said.error
    made.settle()
    check(made)
    assert made.coordinator.counts["replicas lost"] == 0


def test_a_deadline_holds_through_absence_and_restart() -> None:
    made = world(client_timeout=3, replica_timeout=1000, restart_grace=1000)
    client, _ = half_done(made, ask(1000, deadline=10))
    made.tick(4)
    made.restart()
    made.tick(5)
    assert made.coordinator.status().waiting == 1
    made.tick(1.1)
    made.deliver(10)
    while made.inboxes[client.address]:
        made.receive(client)
    assert client.asked[1].errors == ["its deadline of 10 s has passed"] and client.asked[1].kinds == [None]


def test_a_request_never_goes_on_with_another_model_than_it_began_with() -> None:
    made = world()
    client, _ = half_done(made, ask(9), ask(9))
    client.asked[2].tokens, client.asked[2].texts = [[]], [""]  # of this one it has heard nothing
    made.kill(made.replicas[0])
    made.disk.clear()
    made.restart()  # and the journal is lost
    made.coordinator.replica_says(b"other", Register(PROTOCOL, "other", "", Identity("numerics", "another", 1000), 4), made.now)
    made.flush()
    for _ in range(3):
        made.deliver(10)
        while made.inboxes[client.address]:
            made.receive(client)
    assert client.asked[1].ends == ["error"] and "it began as" in (client.asked[1].errors[0] or "")
    assert client.asked[1].kinds == ["replaced"]
    assert client.asked[2].ends == [None] and client.asked[2].began_as != IDENTITY.digest


def test_what_a_model_name_stands_for_survives_a_restart_and_no_longer_than_its_requests() -> None:
    made = world()
    client, _ = half_done(made, ask(9))
    made.kill(made.replicas[0])
    made.restart()
    other = Register(PROTOCOL, "other", "", Identity("numerics", "another", 1000), 4)
    made.coordinator.replica_says(b"other", other, made.now)
    ((_, said),) = made.coordinator.take().sends
    assert isinstance(said, TurnedAway)
    made.deliver(10)
    client.abort(1)
    made.deliver(10)
    made.tick(1)
    assert [type(one).__name__ for one in made.disk][-1] == "Unpinned"
    made.coordinator.replica_says(b"other", other, made.now)
    assert [type(one).__name__ for _, one in made.coordinator.take().sends] == ["Enrolled"]


def test_a_request_that_its_replica_drops_goes_on() -> None:
    made = world()
    _, replica = half_done(made, ask(9))
    (placement,) = replica.works
    replica.works.clear()
    replica.say(Frame(99, [Piece(placement, 0, 3, [], "", "abort")]))
    made.deliver(10)
    made.settle()
    check(made)
    assert made.coordinator.counts["replicas lost"] == 0


def test_one_that_can_never_be_served_ends_alone() -> None:
    made = world()
    client, replica = half_done(made, ask(9), ask(9))
    replica.say(Rejected(min(replica.works), "too long"))
    made.deliver(10)
    made.settle()
    assert client.asked[1].errors == ["too long"]
    check(made, 1)


def test_one_that_leaves_by_itself_blames_no_request() -> None:
    made = world()
    client, replica = half_done(made, ask(9))
    replica.say(Leaving())
    made.deliver(10)
    assert made.coordinator._clients[client.key].jobs[1].lost == 0
    made.replicas.remove(replica)
    made.settle()
    check(made)


def test_a_deadline_holds_for_what_had_ended_and_has_to_go_on() -> None:
    """Its client lost the end with its connection, and others came and went meanwhile."""
    made = world(client_grace=100, client_timeout=100)
    replica, client, other = made.new_replica(8), made.new_client(), made.new_client()
    client.submit(ask(2, deadline=20))
    made.deliver(10)
    while made.inboxes[replica.address]:
        made.receive(replica)
    for _ in range(2):
        replica.step()
        made.deliver(10)
    assert [job.state.value for job in made.coordinator._clients[client.key].jobs.values()] == ["ended"]
    for number in range(1, 1201):
        other.submit(ask(1000, deadline=1e6))
        other.abort(number)
        made.deliver(10)
    made.operate("pause")
    client.cut()
    made.deliver(100)
    made.tick(19)
    assert made.coordinator.status().waiting == 1
    made.tick(2)
    assert made.coordinator.counts["failed"] == 1


def test_deadlines_of_requests_that_are_gone_are_not_kept() -> None:
    made = world()
    client = made.new_client()
    for number in range(1, 5001):
        client.submit(ask(deadline=1e6, priority=number))
        client.abort(number)
        made.deliver(2)
    made.deliver(10)
    queue = made.coordinator._fleets[""].waiting
    assert len(made.coordinator._due) < 1500 and len(queue._levels) < 1500 and len(queue._order) < 1500


def test_a_piece_of_an_old_placement_is_nobodys() -> None:
    made = world()
    client, replica = half_done(made, ask(9), ask(9))
    replica.say(Frame(99, [Piece(12345, 0, 3, [7])]))  # the place where both requests stand
    made.deliver(10)
    assert made.coordinator.counts["pieces of old placements"] == 1
    made.settle()
    check(made)


def test_what_was_acknowledged_is_given_back_by_no_journal() -> None:
    made = world()
    half_done(made, ask(5))
    made.settle()
    made.restart()
    assert not made.coordinator._clients


def test_pieces_of_a_round_in_which_the_client_comes_back_are_not_sent_twice() -> None:
    made = world()
    client, replica = half_done(made, ask(9))
    made.deliver(10)
    replica.step()
    before = made.to_coordinator.popleft()
    client.cut()
    made.to_coordinator.appendleft(before)  # the frame comes first, then hello, in one round
    made.deliver(10)
    assert not [one for one in said_to(made, client.address) if type(one).__name__ == "Said"]
    made.settle()
    check(made)


def test_a_suspect_that_says_a_token_gives_its_replica_back() -> None:
    made = world(client_timeout=100)
    client = made.new_client()
    client.submit(ask(30))
    for _ in range(3):
        made.new_replica(4)
        made.deliver(10)
        made.kill(made.replicas[0])
    replica = made.new_replica(4)
    client.submit(ask(30, prompt="another"))
    made.deliver(10)
    (job,) = made.coordinator._fleets[""].replicas[replica.name].jobs.values()
    assert job.runs_alone and job.number == 1, "it is alone"
    while made.inboxes[replica.address]:
        made.receive(replica)
    replica.step()
    made.deliver(10)
    assert not job.runs_alone and len(made.coordinator._fleets[""].replicas[replica.name].jobs) == 2
    made.settle()
    check(made)


def test_a_sample_that_has_ended_says_no_more() -> None:
    made = world()
    _, replica = half_done(made, ask(9, n=2))
    (placement,) = replica.works
    replica.say(Frame(98, [Piece(placement, 0, 3, [], "", "stop")]))
    replica.say(Frame(99, [Piece(placement, 0, 3, [7])]))
    made.deliver(10)
    assert made.coordinator.counts["replicas that made no sense"] == 1
