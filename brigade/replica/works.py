"""Placements become requests of the engine, and what the engine says becomes pieces.

Nothing of a request is kept here but where each of its samples stands: whatever is lost with a replica is computed again elsewhere,
from what the client has.

A constraint is compiled, and its tokens that were delivered are followed, on a thread beside this one (`preparing.py`): it may take
longer than a step, and everybody's words pass through here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec

from brigade.coordinator.messages import (
    MAX_MESSAGE,
    MOST_ERROR,
    Ask,
    Heard,
    Identity,
    Nothing,
    Piece,
    Place,
    Rejected,
    Rest,
    Row,
    encode,
)
from brigade.engine.constraint import RULES
from brigade.engine.outputs import Delta
from brigade.engine.prompt import ChatPrompt
from brigade.engine.sampling.registry import names
from brigade.engine.submission import Delivered, Submission
from brigade.errors import EngineStopped, RequestError, in_one_line
from brigade.replica.preparing import Preparing

if TYPE_CHECKING:
    from brigade.api.llm import LLM
    from brigade.engine.sampling.logprobs import TokenLogprobs


@dataclass(slots=True)
class Work:
    """`starts`: the tokens that were said of each sample; None of one that had ended before it came here."""

    placement: int
    starts: list[int | None]
    prompt: int = 0  # ids
    prompt_token_ids: list[int] | None = None  # until they were told
    name: str = ""  # the engine's, once it has it


class Works:
    """All that this replica works on. `place`, `withdraw`, `clear`, `take` and `close` belong to one thread; the engine's own only
    appends to what was said, and those that prepare only to what is ready. `wake` is called by them when something is ready, so
    that `take` is called soon."""

    def __init__(self, llm: LLM, wake: Callable[[], None] = lambda: None) -> None:
        self.llm, self._wake = llm, wake
        self._preparing = Preparing(self._read, self._put_ready)
        self._ready: deque[tuple[Work, Submission | Exception]] = deque()
        self.rejected: list[Rejected] = []  # what can never be served
        # Of a token's characters, with some to spare for what a tokenizer makes shorter before it looks.
        longest = 0 if llm.tokenizer is None else 4 * llm.tokenizer.longest_token
        self._longest_text = longest * llm.engine.limit if longest else MAX_MESSAGE
        self._works: dict[int, Work] = {}
        self._said: deque[tuple[Work, Any]] = deque()
        self.cached: list[tuple[int, int, int]] = []  # of what ended: placement, ids from the prefix cache, ids of the prompt

    def __len__(self) -> int:
        return len(self._works)

    @property
    def is_reading(self) -> bool:
        """Whether it has work, and none that the engine has too."""
        return bool(self._works) and not any(work.name for work in self._works.values())

    def identity(self) -> Identity:
        llm = self.llm
        defaults = {name: llm.sampling_defaults[name] for name in sorted(llm.sampling_defaults)}
        return Identity(
            llm.numerics_id, llm.fingerprint, llm.engine.limit, defaults, llm.has_tokenizer, llm.config.vocab_size, names(),
            f"llguidance-{version('llguidance')}/rules-{RULES}",
        )  # fmt: skip

    def place(self, order: Place) -> None:
        """Begin, or go on: at once, or in a `take` soon where it has to be prepared. What can never be served is in `rejected`
        then."""
        starts = [None if one.is_ended else len(one.token_ids) for one in order.heard]
        work = self._works[order.placement] = Work(order.placement, starts)
        if order.ask.params.get("constraint") is not None:
            self._preparing.put((work, order))
            return
        try:
            self._begin(work, self._prepare(order.ask, order.heard))
        except Exception as error:
            self._reject(work, error)

    def _begin(self, work: Work, submission: Submission) -> None:
        work.prompt_token_ids, work.prompt = submission.ids, len(submission.ids)
        # The coordinator sends no more than fit; of what it has just taken away some may still be on its way out.
        (work.name,) = self.llm.thread.submit([submission], partial(self._hear, work), is_bounded=False)

    def _reject(self, work: Work, error: Exception) -> None:
        """Its own error, whatever it is: a parameter's check that raises, too."""
        if isinstance(error, EngineStopped):  # whoever asks the model for its failure hears it
            return
        del self._works[work.placement]
        self.rejected.append(Rejected(work.placement, in_one_line(error)[:MOST_ERROR]))

    def _read(self, one: tuple[Work, Place]) -> Submission | None:
        work, order = one
        if self._works.get(work.placement) is not work:  # nobody wants it any more
            return None
        return self._prepare(order.ask, order.heard)

    def _put_ready(self, one: tuple[Work, Place], found: Submission | Exception | None) -> None:
        if found is not None:
            self._ready.append((one[0], found))
            self._wake()

    def _begin_ready(self) -> None:
        """What was prepared meanwhile, and is still wanted."""
        while self._ready:
            work, found = self._ready.popleft()
            if self._works.get(work.placement) is not work:
                continue
            try:
                if isinstance(found, Exception):
                    raise found
                self._begin(work, found)
            except Exception as error:
                self._reject(work, error)

    def _prepare(self, ask: Ask, heard: list[Heard]) -> Submission:
        llm = self.llm
        try:
            params = llm.params(**{**ask.params, "n": ask.n, "seed": ask.seed, "priority": ask.priority})
        except TypeError as error:  # a parameter that this version does not know
            raise RequestError(f"its parameters cannot be read ({error})") from error
        self._check_length(ask.prompt)
        prompt = ChatPrompt(ask.prompt) if ask.is_templated and isinstance(ask.prompt, str) else ask.prompt
        goes_on = any(one.token_ids or one.characters or one.is_ended for one in heard)
        delivered = [Delivered(one.token_ids, one.characters) for one in heard] if goes_on else ()
        return llm.engine.prepare(prompt, params, delivered=delivered)

    def _check_length(self, prompt: str | list[int]) -> None:
        """A text that is far too long is refused before it is encoded, for which everybody would have to wait."""
        if isinstance(prompt, str) and len(prompt) > self._longest_text:
            raise RequestError(
                f"the prompt has {len(prompt)} characters, which cannot fit into {self.llm.engine.limit} positions; shorten it"
            )

    def withdraw(self, placement: int) -> None:
        work = self._works.pop(placement, None)
        if work is not None and work.name:
            self.llm.thread.abort([work.name])

    def clear(self) -> None:
        """Others have it now."""
        self.llm.thread.abort([work.name for work in self._works.values() if work.name])
        self._works.clear()
        self.rejected.clear()

    def close(self) -> None:
        self.clear()
        self._preparing.close()

    def take(self) -> list[Piece]:
        """What was said since the last call, of what is still wanted."""
        self._begin_ready()
        pieces = []
        for _ in range(len(self._said)):
            work, said = self._said.popleft()
            if self._works.get(work.placement) is not work:
                continue
            if isinstance(said, Delta):
                if said.index == 0 and said.metrics is not None:
                    self.cached.append((work.placement, said.metrics.cached_tokens, work.prompt))
                piece = _piece(work, said)
                if piece is not None:
                    pieces.append(piece if weight(piece) <= MAX_MESSAGE // 2 else self._end_of_one_too_large(work, piece))
                    work.prompt_token_ids = None
            elif not isinstance(said, EngineStopped):
                del self._works[work.placement]
        return pieces

    def _end_of_one_too_large(self, work: Work, piece: Piece) -> Piece:
        """No connection takes it. The sample ends there: what the engine says of it from now on is wanted no more."""
        work.starts[piece.index] = None
        if all(start is None for start in work.starts):
            self.withdraw(work.placement)
        error = f"what it says at once has {weight(piece)} bytes, above {MAX_MESSAGE // 2}: ask for fewer log-probabilities"
        ids = work.prompt_token_ids  # which would be lost with it, if it was the first
        rest = Nothing if ids is None else msgspec.Raw(encode(Rest(prompt_token_ids=ids)))
        return Piece(piece.number, piece.index, piece.start, [], "", "error", error, rest)

    def _hear(self, work: Work, said: Any) -> None:
        self._said.append((work, said))


def weight(piece: Piece) -> int:
    """Bytes on a connection, at most."""
    return len(piece.rest) + 4 * len(piece.text) + 6 * len(piece.token_ids) + len(piece.error or "") + 64


def _piece(work: Work, delta: Delta) -> Piece | None:
    start = work.starts[delta.index]
    if start is None:  # the client has its end, however it came
        return None
    rest = _rest(delta, work.prompt_token_ids)
    work.starts[delta.index] = start + len(delta.token_ids)
    return Piece(work.placement, delta.index, start, list(delta.token_ids), delta.text, delta.finish_reason, delta.error, rest)


def _rest(delta: Delta, prompt_token_ids: list[int] | None) -> msgspec.Raw:
    if not (delta.logprobs or delta.prompt_logprobs or delta.metrics or prompt_token_ids):
        return Nothing
    counts = delta.metrics
    done = (0, 0, 0) if counts is None else (counts.preemptions, counts.cached_tokens, counts.steps)
    prompt = None if delta.prompt_logprobs is None else [None if one is None else _row(one) for one in delta.prompt_logprobs]
    logprobs = None if delta.logprobs is None else [_row(one) for one in delta.logprobs]
    return msgspec.Raw(encode(Rest(logprobs, prompt_token_ids, prompt, delta.stop_reason, *done)))


def _row(one: TokenLogprobs) -> Row:
    return one.token_id, one.logprob, one.rank, list(one.top)
