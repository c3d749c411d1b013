"""Who computes a step: the model of this process, or ranks that the step is sent to.

The engine sends steps and receives their answers in the same order; up to `depth` may be under way. Whoever computes sees batches
and never a request.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from brigade.batch import Batch

if TYPE_CHECKING:
    from torch import Tensor

    from brigade.backends.kv_cache import KVCache


@dataclass(frozen=True, slots=True)
class Answer:
    """`logits_RV`: float32 rows of the spans that want `LAST` or `ALL`, in the order of the batch; whoever receives them may keep
    them. `best`: for each span that wants `BEST`, in order, its greatest logit (a NaN if there is one) and the lowest id that has
    it."""

    logits_RV: Tensor
    best: Sequence[tuple[float, int]] = ()


class Runner(Protocol):
    """What `send` or `receive` raises belongs to no request: it ends the engine, and then only `close` is called."""

    depth: int  # steps that may be under way at once
    finds_best: bool  # whether spans may want `BEST`

    def send(self, batch: Batch) -> None:
        """Begin a step."""

    def receive(self) -> Answer:
        """Wait for the answer to the oldest step under way. The caller is in inference mode."""

    def close(self) -> None:
        """Give back the cache. It is called once; nothing is sent afterwards, and steps under way are not received. A garbage
        collector may be the caller, so it waits for no lock that the other methods hold."""


class LocalRunner:
    """The model of this process: a step is computed when it is received, and no second one is under way."""

    depth = 1
    finds_best = False

    def __init__(self, model: Callable[[Batch, Any], Tensor], cache: KVCache | None = None) -> None:
        self.model, self.cache = model, cache
        self._sent: deque[Batch] = deque()

    def send(self, batch: Batch) -> None:
        self._sent.append(batch)

    def receive(self) -> Answer:
        return Answer(self.model(self._sent.popleft(), self.cache))

    def close(self) -> None:
        self.cache = None
