"""The leader's end of a step: what it sends ahead, and when it computes first."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import torch

from brigade.batch import Batch, Span, Wanted
from brigade.parallel.leader import Leader
from brigade.parallel.memory import MESSAGE_BYTES
from brigade.parallel.messages import Step, encode


def batch(blocks: int) -> Batch:
    return Batch((Span([1], 0, list(range(1000, 1000 + blocks)), Wanted.LAST),))


class Ring:
    """Of a rank that reads the order of a step when the leader has computed the step before."""

    def __init__(self) -> None:
        self.filled: list[int] = []
        self.most = self.computed = 0

    def send_order(self, data: bytes) -> None:
        self.filled.append(len(data))
        self.most = max(self.most, sum(self.filled[self.computed :]))

    def run(self, batch: Batch, cache) -> tuple:
        self.computed += 1
        return torch.zeros(1, 4), []


def test_orders_that_do_not_fit_beside_each_other_wait_for_the_steps_before_them() -> None:
    """A rank that is in a step reads no order, and waits for the leader in its exchange: a full ring would never be read."""
    ring = Ring()
    ranks = SimpleNamespace(links=ring, check=lambda: None, step_under_way=lambda _: None, all_or_none=nullcontext, is_open=True)
    stage = SimpleNamespace(run=ring.run, model=SimpleNamespace(held=SimpleNamespace(tp=1)))
    leader = Leader(stage, ranks, 8)
    runner = leader.make_runner(SimpleNamespace(num_blocks=1, block_size=1))
    ring.filled.clear()
    large = batch(MESSAGE_BYTES // 20)
    size = len(encode(Step.of(0, large)))
    assert MESSAGE_BYTES // 10 < size < MESSAGE_BYTES // 4
    for _ in range(8):
        leader.send(0, large)
    assert len(ring.filled) == 8 and size < ring.most <= MESSAGE_BYTES // 2
    for _ in range(8):
        leader.receive(0)
    assert ring.computed == 8
    for _ in range(8):
        leader.send(0, batch(1))
    assert ring.computed == 8, "small ones go ahead"
    assert runner is not None
