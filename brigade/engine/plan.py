"""One step: planned, and then under way.

Several steps may be under way, one for each pipeline stage, so a request has two marks. `computed` moves when a step is sent, so
that the next chunk of a prompt follows without waiting. `settled` moves when the answer has come. A request may lose its blocks in
between: it was preempted, or it ended. Then it is in another life, and the answer to the former one is not for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from brigade.batch import Batch, Span, Wanted
from brigade.engine.request import Request


@dataclass(slots=True)
class Plan:
    """How many tokens each request computes, in the order of the batch's spans."""

    tokens: dict[Request, int] = field(default_factory=dict)

    def batch(self) -> Batch:
        return Batch(tuple(_span(request, count) for request, count in self.tokens.items()))


@dataclass(frozen=True, slots=True)
class Sent:
    """A step under way: what was sent, for whom, and in which life each of them was."""

    batch: Batch
    requests: tuple[Request, ...]
    lives: tuple[int, ...]

    def owners(self) -> list[Request | None]:
        """The owner of each span; None where it is in another life by now, and the span's answer counts for nothing."""
        return [request if request.life == life else None for request, life in zip(self.requests, self.lives, strict=True)]


def _span(request: Request, count: int) -> Span:
    """Copies of what travels: the request's own lists go on changing while the step is under way."""
    start, end = request.computed, request.computed + count
    if request.wants_every_row and start < len(request.prompt_token_ids):
        wanted = Wanted.ALL
    elif end < len(request.ids):
        wanted = Wanted.NONE
    else:
        wanted = Wanted.BEST if request.takes_best else Wanted.LAST
    return Span(request.ids[start:end], start, tuple(request.blocks), wanted)
