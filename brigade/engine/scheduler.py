"""Who computes what in the next step: the queues and blocks that both schedulers share, and the static one. No tensor comes here.

With several steps under way, the requests that decode are shared out among as many groups, so that every stage of the pipeline has
work. By the exactness contract neither the grouping nor an order of steps shows in what a request says.

Every stage computes the steps in the order in which they were sent. So blocks that are given back may go to a later step at once,
although a step under way still reads or writes them: whoever has them next writes them after that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import islice

from brigade.batch import Batch
from brigade.engine.block_pool import BlockPool
from brigade.engine.config import EngineConfig
from brigade.engine.plan import Plan, Sent
from brigade.engine.request import Request
from brigade.engine.waiting import WaitingQueue


class Scheduler(ABC):
    """`depth`: steps that may be under way at once."""

    def __init__(self, config: EngineConfig, pool: BlockPool, depth: int = 1) -> None:
        self.config, self.pool, self.depth = config, pool, depth
        self.waiting = WaitingQueue(config.prefill_chunk)
        self.running: list[Request] = []  # sorted by rank; at most `max_batch_size`

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, request: Request) -> None:
        self.waiting.add(request)

    def remove(self, request: Request) -> None:
        """Finished, failed or aborted, running or waiting: its blocks are free at once. It may be gone already, and steps that it
        is part of may be under way."""
        if request in self.running:
            self.running.remove(request)
        else:
            self.waiting.remove(request)
        self._drop_blocks(request)

    def _drop_blocks(self, request: Request) -> None:
        self.pool.release(request.blocks)
        request.forget_cache()

    @abstractmethod
    def schedule(self) -> Plan:
        """Plan the next step; empty only where there is no work, or where all of it waits for steps under way."""

    def send(self, plan: Plan) -> Sent:
        """The step begins: its tokens count as computed, so that the next step goes on behind them."""
        sent = Sent(plan.batch(), tuple(plan.tokens), tuple([request.life for request in plan.tokens]))
        for request, count in plan.tokens.items():
            request.computed += count
        return sent

    def advance(self, batch: Batch, owners: Sequence[Request | None]) -> None:
        """The step was computed: move the marks of its owners, and make full blocks known. Of a request that ended in an error,
        nothing that this step computed becomes known."""
        size = self.pool.block_size
        for request, span in zip(owners, batch.spans, strict=True):
            if request is None or request.finish_reason == "error":
                continue
            request.settled += len(span.token_ids)
            request.steps += 1
            if self.pool.prefix_cache and (request.published + 1) * size <= request.settled:
                self._publish(request, size)

    def _publish(self, request: Request, size: int) -> None:
        """Steps under way may still name a block that is exchanged here for one of the same content: they were sent before
        anybody could be given it."""
        while (request.published + 1) * size <= request.settled:
            place = request.published
            node = self.pool.publish(request.tip, request.key(place, size), request.blocks[place])
            request.blocks[place] = node.block
            request.tip, request.published = node.serial, place + 1

    def _decoding(self) -> list[Request]:
        """Who decodes in the next step: whoever has its last token, and with several steps under way an equal share of all that
        decode. A token under way leaves nothing to compute until it comes."""
        ready = [request for request in self.running if request.pending == 1]
        if self.depth == 1:
            return ready
        decoding = sum(request.pending <= 1 for request in self.running)
        return ready[: -(-decoding // self.depth)]


class StaticScheduler(Scheduler):
    """A group runs from its common start until its last member is done; nobody joins in between.

    Its prompts come first, in chunks of up to `prefill_chunk` tokens and as many a step as `max_step_tokens` holds. A member
    whose prompt is in has its first token, and waits until all prompts are sent; from then on the group decodes.
    """

    def schedule(self) -> Plan:
        if not self.running:
            self._start_group()
        prompts = [request for request in self.running if _is_prompt(request)]
        if not prompts:
            return Plan({request: 1 for request in self._decoding()})
        plan, budget = Plan(), self.config.max_step_tokens
        for request in prompts:
            count = min(request.pending, self.config.prefill_chunk, budget)
            if count == 0:
                break
            plan.tokens[request] = count
            budget -= count
        return plan

    def _start_group(self) -> None:
        most = self.config.max_batch_size
        for request in islice(self.waiting.first(most), most):
            blocks = self.pool.take(self.pool.blocks_for(request.most_tokens))
            if blocks is None:
                break
            request.blocks = blocks
            self.waiting.remove(request)
            self.running.append(request)


def _is_prompt(request: Request) -> bool:
    """Its prompt is not in yet; or it comes from another engine, and what it said there is not in yet."""
    return request.computed < len(request.prompt_token_ids) or request.pending > 1
