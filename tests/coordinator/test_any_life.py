"""Any order of events: replicas that die, hang and wake, clients whose connections are cut, a coordinator that is killed and
started again. When the faults end, every accepted request has said what it says undisturbed, and has ended exactly once.

The world itself holds on the way: no position comes twice or is missing, no seed changes, no placement is given twice, and a
request that goes on goes on from tokens that are its own.
"""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brigade.coordinator.messages import Ask, Leaving, Rejected
from brigade.coordinator.settings import ROUTINGS, CoordinatorSettings
from tests.coordinator.world import World

EVENTS = (
    *("submit", "deliver", "receive", "step") * 3,
    *("tick", "abort", "cut", "leave", "kill", "kill unseen", "freeze", "wake", "new replica", "new client", "restart"),
    *("pause", "resume", "replica leaves", "reject"),
)
FEW = {"max_requests": 6, "max_requests_of_client": 4, "max_clients": 3}


def make(seed: int) -> World:
    chance = random.Random(seed)
    few = FEW if chance.random() < 0.2 else {}
    grace = chance.choice((0.0, 30.0, 1000.0))
    chosen = CoordinatorSettings(chance.choice(ROUTINGS), client_grace=grace, no_replica_timeout=1e4, restart_grace=1e4, **few)
    return World(chosen, seed)


def happen(world: World, event: str) -> None:
    chance = world.random
    clients = [client for client in world.clients if not client.is_gone]
    client = chance.choice(clients) if clients else None
    replica = chance.choice(world.replicas) if world.replicas else None
    awake = [one for one in world.replicas if not one.is_frozen]
    if event == "deliver":
        world.deliver(chance.randint(1, 5))
    elif event == "receive":
        for who in chance.sample([*clients, *awake], min(2, len(clients) + len(awake))):
            if who in clients or who in world.replicas:
                world.receive(who)
    elif event == "tick":
        world.tick(chance.choice((0.1, 1.0, 4.0, 15.0)))
    elif event == "new replica" and len(world.replicas) < 4:
        world.new_replica(chance.randint(1, 4))
    elif event == "new client" and len(world.clients) < 5:
        world.new_client()
    elif event == "restart":
        world.restart()
    elif event == "step" and awake:
        chance.choice(awake).step()
    elif replica is not None and event in ("kill", "kill unseen"):
        world.kill(replica, event == "kill")
    elif replica is not None and event in ("freeze", "wake"):
        replica.is_frozen = event == "freeze"
    elif replica is not None and event == "replica leaves":
        replica.say(Leaving())
        world.deliver(len(world.to_coordinator))
        world.kill(replica)
    elif replica is not None and event == "reject" and replica.works and not replica.is_frozen:
        replica.say(Rejected(chance.choice(list(replica.works)), "never"))
    elif client is not None:
        on_client(world, client, event)


def on_client(world: World, client, event: str) -> None:
    chance = world.random
    if event == "submit" and len(client.asked) < 8:
        prompt, n = chance.choice(("short", "a " * 300, "a " * 600)), chance.choice((1, 1, 1, 2, 3))
        priority, seed, length = chance.choice((0, 0, -1)), chance.choice((None, 5)), {"length": chance.randint(1, 8)}
        if chance.random() < 0.05:
            length["kills_at"] = chance.randint(0, 5)
        deadline = chance.choice((None, None, None, 30.0))
        client.submit(Ask("", prompt, n=n, priority=priority, seed=seed, params=length, deadline=deadline))
    elif event == "abort" and client.asked:
        client.abort(chance.choice(list(client.asked)))
    elif event == "cut":
        client.cut()
    elif event == "leave" and chance.random() < 0.2:
        client.leave()
    elif event in ("pause", "resume"):
        world.operate(event)


def live(events: list[str], seed: int) -> None:
    world = make(seed)
    world.new_client()
    world.new_replica(2)
    for event in events:
        happen(world, event)
        bounds(world)
    if world.coordinator.state.value == "paused":
        world.operate("resume")
    world.settle(3000)
    ended_once(world)


def bounds(world: World) -> None:
    coordinator = world.coordinator
    jobs = [job for client in coordinator._clients.values() for job in client.jobs.values()]
    assert coordinator._open == sum(job.is_open for job in jobs)
    assert sum(fleet.kept for fleet in coordinator._fleets.values()) == len(jobs)
    for fleet in coordinator._fleets.values():
        for replica in fleet.replicas.values():
            assert replica.load == sum(job.ask.n for job in replica.jobs.values())
            assert replica.load <= replica.capacity or len(replica.jobs) == 1
            for placement, job in replica.jobs.items():
                assert job.state.value == "placed" and (job.replica, job.placement) == (replica.name, placement)
                assert not job.runs_alone or len(replica.jobs) == 1
                assert not job.runs_alone or job.lost >= 3, "a request that makes progress runs alone"
        waiting = [job for job in jobs if job.state.value == "waiting" and job.ask.model == fleet.model]
        assert fleet.waiting.count + len(fleet.suspects) == len(waiting)
        kept = sorted((job.client, job.number) for job in (*fleet.suspects, *fleet.waiting.everyone()))
        assert kept == sorted((job.client, job.number) for job in waiting)
    placed = [job for job in jobs if job.state.value == "placed"]
    assert sum(len(one.jobs) for fleet in coordinator._fleets.values() for one in fleet.replicas.values()) == len(placed)


def ended_once(world: World) -> None:
    for client in world.clients:
        for number, one in client.asked.items():
            if client.is_gone or one.is_aborted or one.refused is not None:
                continue
            for index in range(one.ask.n):
                if one.ends[index] == "error":
                    assert re.search("replicas ended one after the other|its deadline of 30 s|never", one.errors[index] or "")
                    assert not one.tokens[index] or one.tokens[index] == one.expected(index)[: len(one.tokens[index])]
                    continue
                assert one.ends[index] == "length" and one.tokens[index] == one.expected(index), (client.key, number, index)
    assert world.is_quiet and world.coordinator.status().running == 0
    for _ in range(3):  # clients are away, are given up, and their fleet with them
        world.tick(1e5)
    assert not world.coordinator._fleets and not world.coordinator._clients and world.coordinator.status().waiting == 0


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(events=st.lists(st.sampled_from(EVENTS), max_size=80), seed=st.integers(0, 2**32))
def test_every_accepted_request_ends_once_with_its_own_tokens(events: list[str], seed: int) -> None:
    live(events, seed)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))  # so that several workers share them, and one may be run again
@settings(max_examples=5_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(events=st.lists(st.sampled_from(EVENTS), max_size=120), seed=st.integers(0, 2**32))
def test_so_it_is_in_a_hundred_thousand_lives(part: int, events: list[str], seed: int) -> None:
    live(events, seed)
