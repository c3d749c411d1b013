"""Continuous batching: who computes what in the next step is a pure function of the queues and the free blocks.

`DynamicScheduler` goes in this order, and stops where the step's token budget ends:
1. every running request that decodes, one token each;
2. prompts under way, a chunk each; 3. waiting requests, in order of priority, then of arrival.
Long prompts share at most half of what is left for prompts while shorter ones wait, so no long prompt blocks the line.
When blocks run out, the running request that comes last in the order gives its blocks back and is recomputed later. The first
in the order is never chosen, and any request fits alone (checked at submission), so someone always advances.

The work of a step is bounded by `max_batch_size` and LOOK_AHEAD, whatever the length of the queue:
- nobody waiting is looked at while all slots are taken or no block is free, unless a running request has a lower priority
  than the first one waiting;
- a step looks at waiting requests in their order, and at none behind the first LOOK_AHEAD that find no blocks;
- once LOOK_AHEAD long prompts found the share of the long ones used up, it looks at short prompts only.
A waiting request that finds no blocks may be passed by: only by those that the same step still looks at, and BYPASS_LIMIT times
in all. From then on nobody behind it is let in before it is.
A running request of lower priority is pushed out for a newcomer only where this gives the newcomer all that it needs.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter

from brigade.engine.plan import Plan
from brigade.engine.request import Request
from brigade.engine.scheduler import Scheduler
from brigade.engine.waiting import rank

BYPASS_LIMIT = 32  # later requests that may be admitted before one that finds no blocks
LOOK_AHEAD = 16  # waiting requests without blocks, and long ones without budget, that one step looks at


class DynamicScheduler(Scheduler):
    _preempted = False  # in the step being planned

    def schedule(self) -> Plan:
        plan = Plan()
        self._preempted = False
        self._decode(plan)
        self._prefill(plan)
        return plan

    def _decode(self, plan: Plan) -> None:
        for request in self._decoding():
            # A preemption for an earlier one may have taken it out of the running.
            if (not self._preempted or request in self.running) and self._make_room(request, 1, plan):
                plan.tokens[request] = 1

    def _prefill(self, plan: Plan) -> None:
        budget = self.config.max_step_tokens - sum(plan.tokens.values())
        if budget <= 0:
            return
        under_way = [request for request in self.running if request not in plan.tokens and request.pending > 1]
        long_budget = self._long_budget(budget, under_way)
        for request in under_way:
            if budget <= 0:
                return
            if self._preempted and request not in self.running:
                continue
            is_long, count = self._chunk(request.pending, budget, long_budget)
            if count and self._make_room(request, 1, plan):
                count = min(count, self._fitting(request))
                grown = self._grow(request, count)
                assert grown
                plan.tokens[request] = count
                budget -= count
                long_budget -= count if is_long else 0
        self._admit(plan, budget, long_budget)

    def _long_budget(self, budget: int, under_way: list[Request]) -> int:
        """What prompts of more than a chunk may take together: half of the budget, but never nothing, where a shorter one is
        under way or could come in; otherwise all of it."""
        some_short = any(request.pending <= self.config.prefill_chunk for request in under_way)
        if some_short or (self.waiting.has_short and self._is_open_for(self.waiting.head)):
            return max(budget // 2, 1)
        return budget

    def _chunk(self, pending: int, budget: int, long_budget: int) -> tuple[bool, int]:
        """Whether this is a long prompt, and how many of its pending tokens the step may take."""
        is_long = pending > self.config.prefill_chunk
        return is_long, min(pending, self.config.prefill_chunk, budget, long_budget if is_long else budget)

    def _is_open_for(self, newcomer: Request) -> bool:
        """Whether it may come in at all: into a slot and blocks that are free, or in the place of a running request of lower
        priority. Any newcomer needs a free block, since its last token is always computed. Where this is false, it is
        false for everyone behind in the order."""
        if self.running and self._may_push_out(newcomer, self.running[-1]):
            return True
        return len(self.running) < self.config.max_batch_size and self.pool.num_free > 0

    @staticmethod
    def _may_push_out(newcomer: Request, victim: Request) -> bool:
        return victim.order[0] > newcomer.order[0]

    def _admit(self, plan: Plan, budget: int, long_budget: int) -> None:
        """Waiting requests in order; one that finds no blocks may be passed by, but not for ever."""
        if self._preempted:  # there is no room, or it would be taken straight back
            return
        if not self.waiting or not self._is_open_for(self.waiting.head):
            return
        passed: list[Request] = []
        delayed = 0  # long prompts beyond the share of the long ones
        for request in self.waiting.first(self.config.max_batch_size + LOOK_AHEAD):
            if budget <= 0 or len(passed) == LOOK_AHEAD or not self._is_open_for(request):
                return
            if delayed == LOOK_AHEAD and self.waiting.is_long(request):
                continue
            self._look_up(request)
            start = len(request.known) * self.pool.block_size
            is_long, count = self._chunk(len(request.ids) - start, budget, long_budget)
            if count == 0:
                if request.bypassed >= BYPASS_LIMIT:
                    return
                delayed += 1
                continue
            victims = self._victims(request, start + count)
            if victims is None:
                if request.bypassed >= BYPASS_LIMIT:
                    return
                passed.append(request)
                continue
            self._let_in(request, count, victims, plan)
            for earlier in passed:
                earlier.bypassed += 1
            if self._preempted or any(earlier.bypassed >= BYPASS_LIMIT for earlier in passed):
                return  # who was pushed out comes before those behind; and nobody is passed more often
            budget -= count
            long_budget -= count if is_long else 0

    def _look_up(self, request: Request) -> None:
        """Find its known prefix; at least one token is left to compute, for its logits."""
        if not request.wants_every_row:
            size, most = self.pool.block_size, (len(request.ids) - 1) // self.pool.block_size
            self.pool.follow(request.known, lambda place: request.key(place, size), most, request.root)

    def _victims(self, newcomer: Request, end: int) -> list[Request] | None:
        """Who must be pushed out for the newcomer to compute up to position `end`: often nobody, and None where all that it
        may push out would not do. What a victim shares with others is free only once the last holder is gone, and what the
        newcomer itself goes on with is never free."""
        too_many = len(self.running) + 1 - self.config.max_batch_size
        missing = self.pool.blocks_for(end) - len(newcomer.known) - self.pool.num_free
        missing += self.pool.num_idle(newcomer.known)
        victims: list[Request] = []
        if too_many <= 0 and missing <= 0:
            return victims
        if sum(len(one.blocks) for one in self.running if self._may_push_out(newcomer, one)) < missing:
            return None  # without a look at each block
        kept = {node.block for node in newcomer.known}
        let_go: Counter[int] = Counter()
        for victim in reversed(self.running):
            if not self._may_push_out(newcomer, victim):
                return None
            victims.append(victim)
            for block in victim.blocks:
                let_go[block] += 1
                if let_go[block] == self.pool.holders(block) and block not in kept:
                    missing -= 1
            if len(victims) >= too_many and missing <= 0:
                return victims
        return None

    def _let_in(self, request: Request, count: int, victims: list[Request], plan: Plan) -> None:
        """From waiting to running. Its known blocks are held first, so that a block it shares with a victim stays."""
        known = request.known
        request.blocks = self.pool.hold(known)
        if known:
            request.published, request.tip = len(known), known[-1].serial
            request.computed = request.settled = len(known) * self.pool.block_size
            request.cached_tokens += request.computed
        for victim in victims:
            self._preempt(victim, plan)
        grown = self._grow(request, count)
        assert grown, "room was counted that is not there"
        self.waiting.remove(request)
        insort(self.running, request, key=rank)
        plan.tokens[request] = count

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
        self.waiting.add(request)

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
