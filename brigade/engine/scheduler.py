"""Who computes what in the next step: a pure function of the queues and the free blocks. No tensor comes here.

`DynamicScheduler` (continuous batching) goes in this order, and stops where the step's token budget ends:
1. every running request that decodes, one token each;
2. prompts under way, a chunk each; 3. waiting requests, in order of priority, then of arrival.
Long prompts share at most half of what is left for prompts while shorter ones wait, so no long prompt blocks the line.
When blocks run out, the request that comes last in the order gives its blocks back and is recomputed later. The first in
the order is never chosen, and any request fits alone (checked at submission), so someone always advances.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import insort
from dataclasses import dataclass, field

from brigade.batch import Batch, Span, Wanted
from brigade.engine.block_pool import BlockPool
from brigade.engine.config import EngineConfig
from brigade.engine.request import Request

BYPASS_LIMIT = 32  # after so many later requests went first, none may until this one is in


@dataclass(slots=True)
class Plan:
    """One step: how many tokens each request computes, in the order of the batch's spans."""

    tokens: dict[Request, int] = field(default_factory=dict)

    def batch(self) -> Batch:
        return Batch(tuple(self._span(request, count) for request, count in self.tokens.items()))

    @staticmethod
    def _span(request: Request, count: int) -> Span:
        start, end = request.computed, request.computed + count
        if request.wants_every_row and start < len(request.prompt_token_ids):
            wanted = Wanted.ALL
        else:
            wanted = Wanted.LAST if end == len(request.ids) else Wanted.NONE
        return Span(request.ids[start:end], start, request.blocks, wanted)


def _key(request: Request) -> tuple[int, int]:
    return request.order


class Scheduler(ABC):
    """The queues and the blocks that both schedulers share."""

    def __init__(self, config: EngineConfig, pool: BlockPool) -> None:
        self.config, self.pool = config, pool
        self.waiting: list[Request] = []  # sorted by order
        self.running: list[Request] = []  # sorted by order

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, request: Request) -> None:
        insort(self.waiting, request, key=_key)

    def remove(self, request: Request) -> None:
        """Finished or aborted, running or waiting: its blocks are free at once."""
        queue = self.running if request in self.running else self.waiting
        queue.remove(request)
        self._drop_blocks(request)

    def _drop_blocks(self, request: Request) -> None:
        self.pool.release(request.blocks)
        request.forget_cache()

    @abstractmethod
    def schedule(self) -> Plan:
        """Plan the next step; empty only where there is no work."""

    def advance(self, plan: Plan) -> None:
        """The step was computed: move the marks, and make full blocks known."""
        size = self.pool.block_size
        for request, count in plan.tokens.items():
            request.computed += count
            request.steps += 1
            if not self.pool.prefix_cache:
                continue
            while (request.published + 1) * size <= request.computed:
                place = request.published
                node = self.pool.publish(request.tip, request.ids[place * size : (place + 1) * size], request.blocks[place])
                request.blocks[place] = node.block
                request.tip, request.published = node.serial, place + 1

    def _grow(self, request: Request, count: int) -> bool:
        """Give the request the blocks for `count` more tokens, if they are free."""
        missing = self.pool.blocks_for(request.computed + count) - len(request.blocks)
        if missing <= 0:
            return True
        taken = self.pool.take(missing)
        if taken is None:
            return False
        request.blocks.extend(taken)
        return True


class StaticScheduler(Scheduler):
    """A group runs from its common start until its last member is done; nobody joins in between."""

    def schedule(self) -> Plan:
        if not self.running:
            self._start_group()
        return Plan({request: request.pending for request in self.running})

    def _start_group(self) -> None:
        while self.waiting and len(self.running) < self.config.max_batch_size:
            request = self.waiting[0]
            blocks = self.pool.take(self.pool.blocks_for(request.most_tokens))
            if blocks is None:
                break
            request.blocks = blocks
            self.running.append(self.waiting.pop(0))


class DynamicScheduler(Scheduler):
    _preempted = False  # in the step being planned

    def schedule(self) -> Plan:
        plan = Plan()
        self._preempted = False
        self._decode(plan)
        self._prefill(plan)
        return plan

    def _decode(self, plan: Plan) -> None:
        for request in [r for r in self.running if r.pending == 1]:
            # A preemption for an earlier one may have taken it out of the running.
            if (not self._preempted or request in self.running) and self._make_room(request, 1, plan):
                plan.tokens[request] = 1

    def _prefill(self, plan: Plan) -> None:
        budget = self.config.max_step_tokens - sum(plan.tokens.values())
        under_way = [request for request in self.running if request not in plan.tokens]
        chunk = self.config.prefill_chunk
        slots = max(self.config.max_batch_size - len(self.running), 0)
        candidates = under_way + self.waiting[: slots + 1]
        some_short = any(request.pending <= chunk for request in candidates)
        long_budget = budget // 2 if some_short else budget
        for request in under_way:
            if budget <= 0:
                return
            if self._preempted and request not in self.running:
                continue
            is_long = request.pending > chunk
            count = min(request.pending, chunk, budget, long_budget if is_long else budget)
            if count and self._make_room(request, 1, plan):
                count = min(count, self._fitting(request))
                grown = self._grow(request, count)
                assert grown
                plan.tokens[request] = count
                budget -= count
                long_budget -= count if is_long else 0
        self._admit(plan, budget, long_budget)

    def _admit(self, plan: Plan, budget: int, long_budget: int) -> None:
        """Waiting requests in order; one that finds no room may be passed by, but not for ever."""
        if self._preempted:  # there is no room, or it would be taken straight back
            return
        passed: list[Request] = []
        for request in list(self.waiting):
            if budget <= 0:
                return
            if len(self.running) >= self.config.max_batch_size and not self._yield_slot(request, plan):
                return
            self._adopt_known_blocks(request)
            is_long = request.pending > self.config.prefill_chunk
            count = min(request.pending, self.config.prefill_chunk, budget, long_budget if is_long else budget)
            if count == 0:
                self._drop_blocks(request)
                continue
            if not self._has_room(request, count, plan):
                self._drop_blocks(request)
                if request.bypassed >= BYPASS_LIMIT:
                    return
                passed.append(request)
                continue
            grown = self._grow(request, count)
            assert grown
            request.cached_tokens += request.computed
            self.waiting.remove(request)
            insort(self.running, request, key=_key)
            for earlier in passed:
                earlier.bypassed += 1
            plan.tokens[request] = count
            budget -= count
            long_budget -= count if is_long else 0

    def _adopt_known_blocks(self, request: Request) -> None:
        """Start from the cached prefix; at least one token is left to compute, for its logits."""
        assert not request.blocks
        if request.wants_every_row:
            return
        nodes = self.pool.find(request.ids, (len(request.ids) - 1) // self.pool.block_size)
        if nodes:
            request.blocks = [node.block for node in nodes]
            request.published, request.tip = len(nodes), nodes[-1].serial
            request.computed = len(nodes) * self.pool.block_size

    def _has_room(self, request: Request, count: int, plan: Plan) -> bool:
        """Room for a newcomer's chunk; only a lower priority is pushed out for it."""
        needed = self.pool.blocks_for(request.computed + count) - len(request.blocks)
        while needed > self.pool.num_free:
            victim = self.running[-1] if self.running else None
            if victim is None or victim.order[0] <= request.order[0]:
                return False
            self._preempt(victim, plan)
        return True

    def _yield_slot(self, request: Request, plan: Plan) -> bool:
        victim = self.running[-1]
        if victim.order[0] <= request.order[0]:
            return False
        self._preempt(victim, plan)
        return True

    def _fitting(self, request: Request) -> int:
        """How many tokens the blocks it has and those that are free can take."""
        return (len(request.blocks) + self.pool.num_free) * self.pool.block_size - request.computed

    def _make_room(self, request: Request, count: int, plan: Plan) -> bool:
        """Blocks for `count` tokens of a running request, taken from whoever comes last if need be."""
        while not self._grow(request, count):
            victim = self.running[-1]
            self._preempt(victim, plan)
            if victim is request:
                return False
        return True

    def _preempt(self, request: Request, plan: Plan) -> None:
        self._preempted = True
        plan.tokens.pop(request, None)
        self.running.remove(request)
        self._drop_blocks(request)
        request.preemptions += 1
        insort(self.waiting, request, key=_key)
