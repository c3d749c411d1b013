"""The request life cycle, the same for both engines: submit -> step, step, ... -> take the output; abort at any time.

An engine belongs to one thread, which alone may change it: whoever made it and steps it, or an `EngineThread` from the first
request that came through it. `prepare` changes nothing, so any thread may call it.

As many steps may be under way as the runner has stages; with one stage it is the same code. `step` sends one, and receives the
oldest where there is room for no other, or where nothing can be sent. So it may return nothing; a loop around it never spins.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from brigade.engine.block_pool import BlockPool
from brigade.engine.config import EngineConfig
from brigade.engine.controller import TextGenerationController, last_words
from brigade.engine.dynamic_scheduler import DynamicScheduler
from brigade.engine.outputs import Delta, FinishReason, RequestOutput
from brigade.engine.plan import Sent
from brigade.engine.prompt import Prompt, encode_prompt, read_ids
from brigade.engine.request import Request, clock
from brigade.engine.sampling.params import SamplingParams
from brigade.engine.sampling.rng import derive_seed
from brigade.engine.scheduler import Scheduler, StaticScheduler
from brigade.engine.submission import Delivered, Limits, Submission, first_matcher
from brigade.errors import EngineStopped, RequestError, in_one_line

if TYPE_CHECKING:
    from torch import Tensor

    from brigade.engine.constraint.matcher import Matcher


class Engine:
    """Steps requests to their end. `limit` is the longest prompt and output together."""

    scheduler_type: type[Scheduler]
    prefix_cache_allowed = True

    def __init__(
        self,
        controller: TextGenerationController,
        config: EngineConfig,
        num_blocks: int,
        limit: int,
        vocab_size: int | None = None,
    ) -> None:
        self.controller, self.config, self.limit, self.vocab_size = controller, config, limit, vocab_size
        self.pool = BlockPool(num_blocks, config.block_size, config.prefix_cache and self.prefix_cache_allowed)
        self.depth = controller.runner.depth
        self.scheduler = self.scheduler_type(config, self.pool, self.depth)
        self.under_way: deque[Sent] = deque()  # the oldest first
        self.default_params = SamplingParams()  # of a request that brings none
        self.owner: int | None = None  # the only thread that may change anything; None: whoever made it sees to that
        self.steps = 0
        self._groups: dict[str, list[Request]] = {}
        self._prompts: dict[str, str | None] = {}
        self._numbers = itertools.count()
        self._unsent: deque[Delta] = deque()
        self.limits = Limits.of(config, limit, vocab_size, num_blocks, controller.tokenizer is not None)
        self._ended: str | None = None  # why no step can be computed any more
        self._closing = threading.Lock()  # taken once, by the first who closes

    clock = staticmethod(clock)

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work or bool(self.under_way) or bool(self._unsent)

    @property
    def num_running(self) -> int:
        return len(self.scheduler.running)

    @property
    def num_waiting(self) -> int:
        return len(self.scheduler.waiting)

    def submit(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        request_id: str | None = None,
        arrival: float | None = None,
        collect_logits: bool = False,
        delivered: Sequence[Delivered] = (),
    ) -> str:
        """Queue a prompt; refused here, with the numbers, if it could never be served or if too many wait."""
        submission = self.prepare(prompt, params, arrival, collect_logits, delivered)
        self.check_waiting(submission.params.n)
        return self.add(submission, request_id)

    def prepare(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        arrival: float | None = None,
        collect_logits: bool = False,
        delivered: Sequence[Delivered] = (),
    ) -> Submission:
        """Prompt and parameters, checked; refused here, with the numbers, if they could never be served. `delivered`: what the
        readers of its samples have of another engine of the same numerics and the same model. It goes on behind that; where
        `max_tokens` is None, that engine must have had the same limit too."""
        params = params or self.default_params
        if not isinstance(params, SamplingParams):
            raise RequestError(f"params is a {type(params).__name__}; give SamplingParams(...), or None for the defaults")
        encoded = encode_prompt(prompt, self.controller.tokenizer)
        ids = encoded.token_ids
        if collect_logits:
            max_tokens = 0
            self.limits.check(ids, max_tokens, params)
        else:
            max_tokens = self.limits.admit(ids, params)
        delivered = tuple(Delivered(read_ids(one.token_ids), one.characters) for one in delivered)
        self.limits.check_delivered(delivered, max_tokens, params)
        seed = int.from_bytes(os.urandom(7), "little") if params.seed is None else params.seed
        arrival = clock() if arrival is None else arrival
        matchers = self._matchers(params, delivered)
        return Submission(encoded.text, ids, params, max_tokens, seed, arrival, collect_logits, delivered, matchers)

    def _matchers(self, params: SamplingParams, delivered: Sequence[Delivered]) -> tuple[Matcher, ...]:
        """Of each sample of a constrained request, behind the tokens that were delivered."""
        if params.constraint is None:
            return ()
        ending, tokenizer = {*self.controller.eos_ids, *params.stop_token_ids}, self.controller.tokenizer
        each, goes_on = delivered or (Delivered(),) * params.n, any(one.token_ids for one in delivered)
        return tuple(
            first_matcher(params.constraint, tokenizer, self.vocab_size, goes_on).behind(one.token_ids, ending) for one in each
        )

    def check_waiting(self, count: int, coming: int = 0) -> None:
        """Room for `count` requests more in the queue, when so many are accepted already and still on their way to it."""
        most, waiting = self.limits.max_waiting, self.num_waiting + coming
        self.limits.check_count(count)
        if waiting + count > most:
            raise RequestError(
                f"{waiting} requests wait and {count} more came; max_waiting is {most}: try later, or start the engine with a "
                "higher max_waiting", kind="crowded",
            )  # fmt: skip

    def add(self, submission: Submission, request_id: str | None = None) -> str:
        """Queue what was prepared, one request for each sample."""
        self._check_owner()
        self._check_open()
        params, number = submission.params, next(self._numbers)
        request_id = f"request-{number}" if request_id is None else request_id
        if request_id in self._groups:
            raise RequestError(f"request id {request_id!r} is in use; choose another or take its output first")
        group = [
            Request(
                request_id, index, (params.priority, number), params, derive_seed(submission.seed, index), submission.ids,
                self.controller.eos_ids, submission.arrival, submission.max_tokens, collect_logits=submission.collect_logits,
                matcher=submission.matchers[index].copy() if submission.matchers else None,
                takes_best=self.controller.takes_best(params),
            )
            for index in range(params.n)
        ]  # fmt: skip
        for request, known in zip(group, submission.delivered or (Delivered(),) * params.n, strict=True):
            try:
                self._open_text(request, submission.prompt)
                self._say_again(request, known)
                if not request.is_finished:
                    self.scheduler.add(request)
            except Exception as error:  # its own text, its own end
                request.fail(error)
                unheard = "".join(request.pieces)[known.characters :]
                self._unsent.append(request.delta(unheard))
        self._groups[request_id] = group
        self._prompts[request_id] = submission.prompt
        return request_id

    def _check_owner(self) -> None:
        if self.owner is not None and self.owner != threading.get_ident():
            raise RuntimeError("a thread of its own steps this engine; use LLM or AsyncLLM, or make another one by LLM.make_engine")

    def _check_open(self) -> None:
        if self._ended is not None:
            raise EngineStopped(self._ended)

    def _open_text(self, request: Request, prompt: str | None) -> None:
        """Text goes on where the prompt ends; `prompt` is its text as given, None where ids were given."""
        tokenizer = self.controller.tokenizer
        if tokenizer is None:
            return
        ids = request.prompt_token_ids
        params = request.params
        request.detokenizer = tokenizer.detokenizer(params.skip_special_tokens, ids, params.keep_special_tokens)
        if params.stop:
            from brigade.tokenizer import StopStrings

            request.stop_strings = StopStrings(params.stop, params.include_stop)
        if params.echo:
            shown = {} if params.skip_special_tokens else {"skip_special_tokens": False}
            text = tokenizer.decode(ids, **shown) if prompt is None else prompt
            if prompt is None and request.max_tokens:
                # Bytes at the end that are no character yet belong to the continuation.
                text = text.removesuffix(tokenizer.detokenizer(params.skip_special_tokens, ids).finish())
            request.pieces.append(text)

    def _say_again(self, request: Request, known: Delivered) -> None:
        """It stands where it stood on another engine: like a preempted request, with everything still to be computed. Its reader
        is told what it does not have: text that is older than the next token, such as an echo, or the end."""
        self.controller.say_again(request, known.token_ids)
        if request.is_finished and request.params.prompt_logprobs is not None and request.index == 0:  # they are in no delta
            request.known_end, request.finish_reason = request.finish_reason, None
            request.ids = list(request.prompt_token_ids)
        text = "".join(request.pieces)
        if known.characters > len(text):
            raise RequestError(
                f"{known.characters} characters cannot have come with {len(known.token_ids)} tokens, whose text has {len(text)}; "
                "this request began with another prompt, other parameters or another tokenizer"
            )
        unheard = text[known.characters :]
        if unheard or request.is_finished:
            self._unsent.append(request.delta(unheard))

    def step(self) -> list[Delta]:
        """Compute one step of whatever is scheduled and return what came in: with several steps under way, of an earlier one."""
        self._check_owner()
        self._check_open()
        deltas = list(self._unsent)
        self._unsent.clear()
        try:
            plan = self.scheduler.schedule()
            if plan.tokens:
                sent = self.scheduler.send(plan)
                self.controller.send(sent.batch)
                self.under_way.append(sent)
                if len(self.under_way) < self.depth:
                    return deltas
            elif not self.under_way:
                assert not self.scheduler.has_work, "work is queued, and nothing could be scheduled"
                return deltas
            return deltas + self._receive(self.under_way.popleft())
        except BaseException as error:  # the marks have moved, so no step can follow
            self._ended = f"the engine failed ({in_one_line(error)}) and computes nothing any more; make another one"
            self.under_way.clear()
            raise

    def _receive(self, sent: Sent) -> list[Delta]:
        owners = sent.owners()
        deltas = self.controller.finish(sent.batch, owners)
        self.scheduler.advance(sent.batch, owners)
        self.steps += 1
        for request in owners:
            if request is None:
                continue
            if request.is_finished:
                self.scheduler.remove(request)
            elif not request.is_sampling and request.settled == len(request.ids):
                deltas.append(self._end(request, request.known_end or "length"))
        return deltas

    def close(self) -> None:
        """Nothing is computed any more: steps under way are dropped, and the runner gives its cache back. Requests stay as they
        are. Closing again does nothing."""
        self._check_owner()
        if not self._closing.acquire(blocking=False):
            return
        if self._ended is None:
            self._ended = "the engine was closed; make another one"
        self.under_way.clear()
        self.controller.runner.close()

    def _end(self, request: Request, reason: FinishReason, text: str = "") -> Delta:
        """End a request outside of sampling: nothing to sample, or aborted."""
        request.finish_reason, request.finished = reason, clock()
        self.scheduler.remove(request)
        return request.delta(text)

    def abort(self, request_id: str) -> None:
        """End every sample of a request now, running or waiting; what it has said so far stays."""
        self._check_owner()
        for request in self._group(request_id):
            if not request.is_finished:
                self._unsent.append(self._end(request, request.known_end or "abort", last_words(request)))

    def knows(self, request_id: str) -> bool:
        return request_id in self._groups

    def is_finished(self, request_id: str) -> bool:
        return all(request.is_finished for request in self._group(request_id))

    def take_output(self, request_id: str) -> RequestOutput:
        """The finished request, once; the engine forgets it."""
        self._check_owner()
        group = self._group(request_id)
        if not self.is_finished(request_id):
            raise RequestError(f"request {request_id!r} is still running; step until its samples are finished")
        del self._groups[request_id]
        # Nobody reads them any more, and the id may be used again.
        self._unsent = deque(delta for delta in self._unsent if delta.request_id != request_id)
        first = group[0]
        return RequestOutput(
            request_id, self._prompts.pop(request_id), list(first.prompt_token_ids), first.prompt_rows(),
            [request.sample() for request in group],
        )  # fmt: skip

    def fail(self, request_id: str, error: Exception) -> None:
        """Its end came, but what it asked for cannot be given."""
        self._check_owner()
        for request in self._group(request_id):
            request.fail(error)

    def collects_logits(self, request_id: str) -> bool:
        """Whether `take_logits` has an answer: the request asked for logits, and came to its end."""
        first = self._group(request_id)[0]
        return first.collect_logits and first.finish_reason == "length"

    def take_logits(self, request_id: str) -> Tensor:
        """The collected logits of a request submitted with `collect_logits`, [length, vocabulary]."""
        import torch

        first = self._group(request_id)[0]
        logits = torch.stack([first.prompt_logits[i] for i in range(len(first.prompt_token_ids))])
        self.take_output(request_id)
        return logits

    def _group(self, request_id: str) -> list[Request]:
        if request_id not in self._groups:
            raise RequestError(f"no request {request_id!r} here; it was never submitted, or its output was taken")
        return self._groups[request_id]

    def check(self) -> None:
        """Assert that every block is accounted for."""
        self.pool.check([request.blocks for request in (*self.scheduler.running, *self.scheduler.waiting)])


class DynamicEngine(Engine):
    """Continuous batching over paged KV blocks: requests join and leave at every step."""

    scheduler_type = DynamicScheduler


class StaticEngine(Engine):
    """Groups of up to `max_batch_size` requests that run together until the last is done."""

    scheduler_type = StaticScheduler
    prefix_cache_allowed = False  # a group reserves its blocks once, from start to end
