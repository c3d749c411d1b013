"""Where one answer stands in its grammar, and which tokens may come next.

What is allowed is a function of the grammar and of the answer's tokens, whatever happened between them: every token is taken in the
same way, with its mask computed behind it, also where an answer goes on from another engine. So what the lexer has built by then,
which counts towards its limits, is the same too. No clock is read here: a token that is slow on one machine, or beside other work,
ends no answer that would go on elsewhere.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

import numpy as np

from brigade.errors import RequestError, in_one_line
from brigade.tokenizer.tokenizer import PANIC

if TYPE_CHECKING:
    from llguidance import LLMatcher

_GOOD_STOPS = ("NotStopped", "NoExtension", "NoExtensionBias", "EndOfSentence")


class Matcher:
    """`inner` belongs to this one alone; `speakable`: of each of the model's tokens, whether a text may hold it."""

    def __init__(self, inner: LLMatcher, speakable: Sequence[bool] | np.ndarray) -> None:
        self._inner = inner
        self._speakable = np.asarray(speakable, bool)
        self._taken = 0
        self._allowed = np.zeros(len(self._speakable), bool)
        self.may_end = False  # whether the answer may end here
        self.ended_at: int | None = None  # the number of its tokens, once nothing can follow them
        self.failure: str | None = None  # why no token can follow
        self._look()

    def copy(self) -> Matcher:
        """Another answer that has said the same so far."""
        made = Matcher.__new__(Matcher)
        made.__dict__.update(self.__dict__)
        made._inner = self._inner.deep_copy()
        return made

    def behind(self, token_ids: Sequence[int], ending: Container[int]) -> Matcher:
        """A copy that has taken an answer's tokens, of which the last may be one of `ending`. Refused where it cannot have said
        them."""
        made, said = self.copy(), list(token_ids)
        ends = bool(said) and said[-1] in ending
        made.follow(said[:-1] if ends else said)
        if made.failure is not None and made._taken < len(said) - ends:
            raise RequestError(f"{made.failure}; this request began with other parameters")
        if ends and not made.may_end:
            raise RequestError(
                f"token {said[-1]} at place {len(said) - 1} of the answer ends it, where its constraint does not allow that; this "
                "request began with other parameters"
            )
        return made

    def follow(self, token_ids: Sequence[int]) -> None:
        """Take those of an answer's tokens that were not taken yet. None of them ends the text."""
        while self._taken < len(token_ids) and self.failure is None:
            token = token_ids[self._taken]
            if self.ended_at is not None or not self.allows(token):
                self.failure = f"token {token} at place {self._taken} of the answer is not allowed there by its constraint"
                return
            self._taken += 1
            self._take(token)

    def allows(self, token: int, ending: Container[int] = ()) -> bool:
        """Whether it may come next; one of `ending` ends the answer."""
        if token in ending:
            return self.may_end
        return 0 <= token < len(self._allowed) and bool(self._allowed[token])

    def hold(self, logits: np.ndarray, ending: Sequence[int]) -> None:
        """In place: minus infinity for every token that may not come next. Those of `ending` may where the answer may end, and only
        there, whatever else they stand for."""
        if self.failure is not None:
            raise RequestError(self.failure)
        ending = [token for token in ending if token < len(logits)]
        kept = logits[ending]
        known = min(len(self._allowed), len(logits))
        logits[:known][~self._allowed[:known]] = -np.inf
        logits[known:] = -np.inf
        logits[ending] = kept if self.may_end else -np.inf

    def _take(self, token: int) -> None:
        try:
            self._inner.consume_token(token)
        except BaseException as error:
            self._fail(error)
            return
        self._look()

    def _look(self) -> None:
        """Which tokens may come next."""
        try:
            mask = np.frombuffer(self._inner.compute_bitmask(), np.uint8)
            self.may_end, reason = self._inner.is_accepting(), self._inner.stop_reason()
            said = self._inner.get_error()
        except BaseException as error:
            self._fail(error)
            return
        if said.startswith("NoExtensionBias"):  # no token, and no end: told below
            self._allowed = np.zeros(len(self._speakable), bool)
        elif reason not in _GOOD_STOPS or said:
            first = said.strip().splitlines()[0] if said.strip() else reason
            self.failure = f"the constraint is too much work behind {self._taken} tokens ({first[:200]}); make it simpler"
            return
        else:
            bits = np.unpackbits(mask, count=min(len(self._speakable), 8 * len(mask)), bitorder="little")
            self._allowed = bits.astype(bool) & self._speakable
        if self._allowed.any():
            return
        if self.may_end:
            self.ended_at = self._taken
        else:
            self.failure = f"behind {self._taken} tokens no token of this model can follow; the constraint cannot be met"

    def _fail(self, error: BaseException) -> None:
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise error
        self.failure = f"the constraint failed behind {self._taken} tokens ({in_one_line(error)[:200]})"
