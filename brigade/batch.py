"""The one object that travels from the scheduler to the model: plain integers, no tensor, no request.

A `Batch` says which new ids to compute, at which absolute positions, and where their keys and values live. It is small
and made of built-in types, so it can be compared, printed, stored, and sent to other ranks as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class Wanted(IntEnum):
    """Which logits a span asks the model for."""

    NONE = 0  # a prefill chunk that is not the last
    LAST = 1  # decode, or the end of a prompt: the row the sampler reads
    ALL = 2  # prompt logprobs, or logits asked for at every position
    BEST = 3  # of the last row only the greatest logit and its id: a greedy request, where the vocabulary is cut over ranks


@dataclass(frozen=True, slots=True)
class Span:
    """One sequence's share of a step: `token_ids` at positions `start`, `start + 1`, ...

    `blocks` are the physical cache blocks of the whole sequence in order of position; they cover every position up to
    and including the new ones. Positions below `start` are already in the cache.
    """

    token_ids: Sequence[int]
    start: int
    blocks: Sequence[int]
    wanted: Wanted = Wanted.LAST

    @property
    def end(self) -> int:
        return self.start + len(self.token_ids)

    @property
    def rows(self) -> range:
        """Which of its rows the head computes."""
        count = len(self.token_ids)
        first = {Wanted.NONE: count, Wanted.LAST: count - 1, Wanted.BEST: count - 1, Wanted.ALL: 0}[self.wanted]
        return range(first, count)


@dataclass(frozen=True, slots=True)
class Batch:
    """The spans of one step. Logits come back in the order of the spans, rows of a span in order of position."""

    spans: tuple[Span, ...]

    @property
    def num_tokens(self) -> int:
        return sum(len(span.token_ids) for span in self.spans)

    @property
    def num_logits(self) -> int:
        return sum(len(span.rows) for span in self.spans)
