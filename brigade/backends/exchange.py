"""What the ranks that hold the same layers say to each other: the contract. `brigade/parallel/collectives.py` fulfils it.

Every call is made by all ranks of the group, in the same order and with the same shapes. A call never returns where a rank is gone:
it raises. Every result is a function of the ranks' numbers alone, never of the order in which they came.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from brigade.errors import RankFailed

if TYPE_CHECKING:
    from torch import Tensor


class Exchange(ABC):
    rank: int
    size: int
    seconds: float = 0.0  # spent in calls, waiting included
    native: int | None = None  # address of a `BrExchange`, for whole layers that the kernels compute

    @abstractmethod
    def tree(self, part: Tensor) -> Tensor:
        """The sum of all ranks' parts, as the upper levels of the tree: neighbours first, then neighbours of those. float32, or
        int32, whose sums have no order. `part` is contiguous, and may be written to."""

    @abstractmethod
    def maximum(self, most_T: Tensor) -> Tensor:
        """The greatest of all ranks' float32 numbers, none of which is below 0; NaN is above all others."""

    @abstractmethod
    def choose(self, x_TH: Tensor, owners_T: Tensor) -> Tensor:
        """Row t as rank `owners_T[t]` has it."""

    @abstractmethod
    def gather(self, x_RW: Tensor, widths: Sequence[int]) -> Tensor | None:
        """The columns of all ranks side by side, in the order of ranks, on rank 0; None on the others. `widths`: of each rank."""

    def lost(self) -> BaseException:
        """What to raise where a call of `native` returned that a rank is gone: it may take a while to learn which."""
        return RankFailed("another rank is gone", lost=True)


class Alone(Exchange):
    """One rank."""

    rank, size = 0, 1

    def tree(self, part: Tensor) -> Tensor:
        return part

    def maximum(self, most_T: Tensor) -> Tensor:
        return most_T

    def choose(self, x_TH: Tensor, owners_T: Tensor) -> Tensor:
        return x_TH

    def gather(self, x_RW: Tensor, widths: Sequence[int]) -> Tensor | None:
        return x_RW
