"""The waiting queue: requests in the order in which they go first, cheap at any length.

Short prompts and long ones lie in two lists, so that a short one is found behind any number of long ones. In each list the first
request is at the end: what a step takes from the head of the queue, or gives back near it, moves no other entry. A new request,
which usually goes last, and an abort find their place by bisection and move the entries behind it, 8 bytes each.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from brigade.engine.request import Request


def rank(request: Request) -> tuple[int, int, int]:
    return request.rank


def _from_the_end(request: Request) -> tuple[int, int, int]:
    priority, number, index = request.rank
    return -priority, -number, -index


class WaitingQueue:
    """Requests by `rank`; no two have the same. A long prompt has more than `long_above` ids, which do not change here."""

    def __init__(self, long_above: int) -> None:
        self.long_above = long_above
        self._short: list[Request] = []
        self._long: list[Request] = []

    def __len__(self) -> int:
        return len(self._short) + len(self._long)

    def __iter__(self) -> Iterator[Request]:
        """In order. The queue must not change meanwhile; `first` allows it."""
        return merge(reversed(self._short), reversed(self._long), key=rank)

    @property
    def has_short(self) -> bool:
        return bool(self._short)

    @property
    def head(self) -> Request:
        return min((requests[-1] for requests in (self._short, self._long) if requests), key=rank)

    def first(self, count: int) -> Iterator[Request]:
        """The first `count` short requests and as many long ones, together in order, as they are now: the queue may change
        before the iterator ends."""
        heads = [list(islice(reversed(requests), count)) for requests in (self._short, self._long)]
        return merge(*heads, key=rank)

    def add(self, request: Request) -> None:
        insort(self._of(request), request, key=_from_the_end)

    def remove(self, request: Request) -> bool:
        """Take a request out; False where it was not in."""
        requests = self._of(request)
        place = bisect_left(requests, _from_the_end(request), key=_from_the_end)
        if place == len(requests) or requests[place] is not request:
            return False
        del requests[place]
        return True

    def is_long(self, request: Request) -> bool:
        return len(request.ids) > self.long_above

    def _of(self, request: Request) -> list[Request]:
        return self._long if self.is_long(request) else self._short
