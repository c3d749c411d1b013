"""The leader's end of a step: send it to every rank, compute the own part, and hand the answer to the engine that asked.

Steps run in the order in which they were sent, on every rank. Several engines may share the ranks, each with a cache and from a
thread of its own: whoever waits for an answer computes the leader's part of all steps before it.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from brigade.backends.kv_cache import KVCache
from brigade.backends.sums import TensorSum
from brigade.batch import Batch
from brigade.engine.runner import Answer
from brigade.parallel.launch import Ranks
from brigade.parallel.memory import MESSAGE_BYTES
from brigade.parallel.messages import Count, DropCache, MakeCache, Measure, Order, Step, Times, decode_reply, encode
from brigade.parallel.stage import Stage


class Leader:
    def __init__(self, stage: Stage, ranks: Ranks, depth: int) -> None:
        self.stage, self.ranks, self.depth = stage, ranks, depth
        self._lock = threading.Lock()
        self._sent: deque[tuple[int, Batch, int]] = deque()  # whose step, and the bytes of its order
        self._answers: dict[int, deque[Answer]] = {}
        self._caches: dict[int, KVCache] = {}
        self._dropped: deque[int] = deque()
        self._next = 0

    def make_runner(self, cache: KVCache) -> RankRunner:
        """For one engine: every rank takes the memory of its part of the cache, and gives it back when the runner is closed or
        forgotten."""
        with self._turn(), self._together():
            number, self._next = self._next, self._next + 1
            self._caches[number], self._answers[number] = cache, deque()
            self._order(MakeCache(number, cache.num_blocks, cache.block_size))
        return RankRunner(self, number)

    def send(self, number: int, batch: Batch) -> None:
        """An order waits in a ring until a rank reads it, which it does only between two steps. So what does not surely fit beside
        those of the steps under way waits for them: else the leader would wait for a rank that waits for the leader."""
        order = encode(Step.of(number, batch))
        with self._turn():
            while self._sent and len(order) + sum(size for _, _, size in self._sent) > MESSAGE_BYTES // 2:
                self._compute_oldest()
            with self._together():
                self.ranks.links.send_order(order)
                self._sent.append((number, batch, len(order)))

    def receive(self, number: int) -> Answer:
        with self._turn():
            while not self._answers[number]:
                self._compute_oldest()
            return self._answers[number].popleft()

    def forget(self, number: int) -> None:
        """Give back a cache before the next order. Does no work itself, since the garbage collector may call it in the middle of
        anything, and on any thread."""
        self._dropped.append(number)

    def drop(self, number: int) -> None:
        """Give back a cache, now or when the leader has finished what it is at. Waits for no lock."""
        self.forget(number)
        self._clear_dropped()

    def times(self) -> list[Times]:
        """How each rank spent its time since the last call, in the order of ranks. No step may be under way."""
        with self._turn(), self._together():
            assert not self._sent
            self._order(Measure())
            return [self.stage.times(), *(decode_reply(data) for data in self.ranks.links.replies())]

    def tensor_sums(self, dtype: torch.dtype) -> list[TensorSum]:
        """What all ranks count of the model's tensors, each its own part. Steps under way are computed first."""
        with self._turn():
            while self._sent:
                self._compute_oldest()
            with self._together():
                self._order(Count())
                own = self.stage.tensor_sums(dtype)
                return own + [one for data in self.ranks.links.replies() for one in decode_reply(data).tensors]

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with self._lock:
            self._drop_all()
            yield
        self._clear_dropped()

    def _clear_dropped(self) -> None:
        """Whoever finds the lock taken leaves the work to its holder, who comes here last."""
        while self._dropped and self._lock.acquire(blocking=False):
            try:
                self._drop_all()
            finally:
                self._lock.release()

    def _drop_all(self) -> None:
        """Steps under way with a cache are computed before it goes: the other ranks are about to, and wait for this one."""
        while self._dropped:
            number = self._dropped.popleft()
            if number not in self._caches:
                continue
            if self.ranks.is_open:
                while any(owner == number for owner, _, _ in self._sent):
                    self._compute_oldest()
                with self._together():
                    self._order(DropCache(number))
            del self._caches[number], self._answers[number]

    def _compute_oldest(self) -> None:
        with self._together():
            owner, batch, _ = self._sent[0]
            answer = self.stage.run(batch, self._caches[owner])
            assert answer is not None
            self._answers[owner].append(Answer(*answer))
            self._sent.popleft()

    def _order(self, order: Order) -> None:
        self.ranks.links.send_order(encode(order))

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Work in which this rank may wait for others and they for it: a rank that hangs is looked for meanwhile. Whatever goes
        wrong in it leaves the ranks at different places of a step, so all of them end."""
        self.ranks.check()
        self.ranks.step_under_way(True)
        try:
            with self.ranks.all_or_none():
                yield
        finally:
            self.ranks.step_under_way(False)


class RankRunner:
    """The engine's `Runner` over many ranks."""

    def __init__(self, leader: Leader, number: int) -> None:
        self._leader, self._number = leader, number
        self._forgotten = weakref.finalize(self, leader.forget, number)
        self._forgotten.atexit = False
        self.depth, self.finds_best = leader.depth, leader.stage.model.held.tp > 1

    def send(self, batch: Batch) -> None:
        self._leader.send(self._number, batch)

    def receive(self) -> Answer:
        return self._leader.receive(self._number)

    def close(self) -> None:
        self._forgotten.detach()
        self._leader.drop(self._number)
