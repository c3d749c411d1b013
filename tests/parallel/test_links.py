"""Streams between ranks: whole, in order, of any length; and nobody waits for a rank that is gone."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from brigade.backends.cpu.library import find_kernels
from brigade.backends.exchange import Alone
from brigade.errors import ConfigError
from brigade.mesh import Mesh
from brigade.parallel.board import State, Stop
from brigade.parallel.collectives import RingEnd, SharedExchange
from brigade.parallel.memory import MESSAGE_BYTES, PAGE
from brigade.parallel.setup import Setup
from tests.parallel.threads import Gone, make_links, on_threads

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

MESH = Mesh(tp=2, pp=2)
WAYS = ["shared", "group"]
SIZES = [0, 1, 503, 504, 505, 70_000, 3 * MESSAGE_BYTES + 5]


def message(size: int, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(size)


@pytest.mark.parametrize("way", WAYS)
def test_orders_and_replies_come_whole_and_in_order(way) -> None:
    links = make_links(MESH, way)

    def live(rank: int) -> list:
        if rank:
            for case, size in enumerate(SIZES):
                assert links[rank].receive_order() == message(size, case), size
                links[rank].reply(message(size, 10 * rank + case))
            return []
        found = []
        for case, size in enumerate(SIZES):
            links[0].send_order(message(size, case))
            found.append(links[0].replies())
        return found

    for case, replies in enumerate(on_threads(4, live)[0]):
        assert replies == [message(SIZES[case], 10 * rank + case) for rank in (1, 2, 3)]


@pytest.mark.parametrize("way", WAYS)
def test_several_orders_may_be_under_way(way) -> None:
    """As many as a long pipeline orders ahead: the leader never waits for a reader, who may be waiting for the leader."""
    links = make_links(MESH, way)
    sender = threading.Thread(target=lambda: [links[0].send_order(message(900, step)) for step in range(40)], daemon=True)
    sender.start()  # nobody has received any
    sender.join(30)
    assert not sender.is_alive()
    for step in range(40):
        for rank in (3, 1, 2):
            assert links[rank].receive_order() == message(900, step)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("spins", [0, 2000])
def test_rows_go_to_the_next_stage_rank_by_rank(way, spins) -> None:
    links = make_links(Mesh(tp=2, pp=3), way, spins)
    first = [torch.arange(500.0 * 64).reshape(500, 64) + 1e6 * share for share in range(2)]  # 128,000 bytes; a ring has 32,768

    def live(rank: int) -> torch.Tensor:
        stage = links[rank].mesh.stage(rank)
        for _ in range(3):
            x_TH = links[rank].receive_rows(500, 64) + 1 if stage else first[rank % 2]
            if stage < 2:
                links[rank].send_rows(x_TH)
        return x_TH

    found = on_threads(6, live)
    for rank in range(6):
        assert torch.equal(found[rank], first[rank % 2] + links[rank].mesh.stage(rank))


@pytest.mark.parametrize("way", WAYS)
def test_two_steps_of_rows_are_sent_before_anybody_receives(way) -> None:
    links = make_links(MESH, way, rows_bytes=4 * 64 * 32)
    steps = [torch.full((64, 32), float(step)) for step in range(2)]
    first_stage = MESH.rank(0, 1)
    for x_TH in steps:
        links[first_stage].send_rows(x_TH)
    for x_TH in steps:
        assert torch.equal(links[1].receive_rows(64, 32), x_TH)


def test_a_ring_takes_pieces_of_every_size_around_its_end() -> None:
    links = make_links(MESH, "shared", rows_bytes=1)
    sizes = [1, 3, PAGE - 1, PAGE, PAGE + 1, 5 * PAGE + 7] * 20
    rng = np.random.default_rng(0)
    given = [torch.from_numpy(rng.standard_normal((size, 1)).astype(np.float32)) for size in sizes]
    sender = threading.Thread(target=lambda: [links[2].send_rows(x) for x in given], daemon=True)
    sender.start()
    found = [links[0].receive_rows(size, 1) for size in sizes]
    sender.join(timeout=30)
    assert all(torch.equal(x, y) for x, y in zip(given, found, strict=True))


@pytest.mark.parametrize("spins", [0, 2000])
@pytest.mark.parametrize("wait", ["tree", "maximum", "gather", "receive_order", "replies", "receive_rows", "send_rows"])
def test_whoever_waits_is_seen_to_wait_and_leaves_when_all_are_stopped(wait, spins) -> None:
    links = make_links(MESH, "shared", spins)
    own = {"receive_order": 1, "send_rows": 2}.get(wait, 0)
    rank, exchange = links[own], links[own].exchange
    calls = {
        "tree": lambda: exchange.tree(torch.ones(10)),
        "maximum": lambda: exchange.maximum(torch.ones(10)),
        "gather": lambda: exchange.gather_bytes(b"x"),
        "receive_order": rank.receive_order,
        "replies": rank.replies,
        "receive_rows": lambda: rank.receive_rows(3, 3),
        "send_rows": lambda: rank.send_rows(torch.zeros(10_000)),
    }
    rank.board.set_state(own, State.COMPUTING)
    raised = []

    def live() -> None:
        try:
            calls[wait]()
        except Gone as error:
            raised.append(error)

    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    end = time.monotonic() + 5
    while rank.board.facts(own).state != State.WAITING and time.monotonic() < end:
        time.sleep(0.005)
    assert rank.board.facts(own).state == State.WAITING and thread.is_alive()
    start = time.monotonic()
    rank.board.stop(Stop.FAILED)
    thread.join(timeout=5)
    assert len(raised) == 1 and isinstance(links[0].exchange.lost(), Gone) and time.monotonic() - start < 1
    assert rank.board.facts(own).state == State.COMPUTING


def test_layers_and_errors_stand_on_the_board() -> None:
    links = make_links(MESH, "shared")
    for _ in range(3):
        links[2].tick()
    board = links[0].board
    board.fail(2, "é" * 5000, lost=True)
    board.fail(2, "a later one", lost=False)
    facts = board.facts(2)
    assert facts.layers == 3 and facts.error == "é" * 1024 and facts.lost and abs(facts.when - time.monotonic()) < 5
    assert board.facts(1).layers == 0 and board.facts(1).error == "" and board.facts(3).error == ""
    board.stop(Stop.CLOSING)
    board.stop(Stop.FAILED)
    assert board.stopped is Stop.CLOSING


def test_shared_memory_is_used_where_all_of_a_group_are_on_one_host() -> None:
    assert all(isinstance(each.exchange, SharedExchange) for each in make_links(MESH, "auto"))
    assert isinstance(make_links(Mesh(pp=2), "auto")[0].exchange, Alone)
    one, two = Setup(MESH, (0, 0, 0, 0)), Setup(MESH, (0, 0, 2, 2))
    assert not one.needs_store() and two.needs_store()
    assert two.shares_slots(0) and two.shares_slots(3) and two.shares_memory(0, [0, 1]) and not two.shares_memory(0, [0, 2])
    assert not Setup(MESH, (0, 1, 0, 1)).shares_slots(0)
    assert not Setup(MESH, (0, 0, 0, 0), exchange="group").shares_memory(0, [0, 1])
    cuda = Setup(MESH, (0, 0, 0, 0), device="cuda")
    assert not cuda.shares_slots(0) and cuda.shares_memory(0, [0, 1])
    assert Setup.from_json(two.to_json()) == two
    assert RingEnd is type(make_links(MESH, "auto")[0]._orders_to[0])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hosts": (0, 0, 2, 3)}, "ranks 2 to 3, which share matrices, are not on one host"),
        ({"device": "cuda"}, "the models compute on cuda"),
        ({"has_kernels": False}, "the C[+][+] kernels are not built"),
        ({"exchange": "rumour"}, "choose auto, shared or group"),
        ({"rank_timeout": 0.0}, "give seconds above 0"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(changes, words) -> None:
    with pytest.raises(ConfigError, match=words):
        Setup(**{"mesh": MESH, "hosts": (0, 0, 0, 0), "exchange": "shared"} | changes)
