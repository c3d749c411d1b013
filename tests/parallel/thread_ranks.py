"""Ranks without processes: each is a thread of the test, and they meet at a barrier."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from brigade.backends.exact_math import pair_tree
from brigade.backends.exchange import Exchange

PATIENCE = 60.0


class Table:
    """Where the ranks of one group lay down what they have."""

    def __init__(self, size: int) -> None:
        self.size, self.laid = size, [None] * size
        self.barrier = threading.Barrier(size, timeout=PATIENCE)

    def share(self, rank: int, mine: Any) -> list[Any]:
        self.laid[rank] = mine
        self.barrier.wait()
        found = list(self.laid)
        self.barrier.wait()
        return found


class ThreadExchange(Exchange):
    def __init__(self, table: Table, rank: int) -> None:
        self.table, self.rank, self.size = table, rank, table.size

    def tree(self, part: Tensor) -> Tensor:
        return pair_tree(self.table.share(self.rank, part.clone()))

    def maximum(self, most_T: Tensor) -> Tensor:
        stacked = torch.stack(self.table.share(self.rank, most_T.clone()))
        return stacked.amax(0)  # NaN is above all others

    def choose(self, x_TH: Tensor, owners_T: Tensor) -> Tensor:
        return torch.stack(self.table.share(self.rank, x_TH.clone()))[owners_T, torch.arange(x_TH.shape[0])]

    def gather(self, x_RW: Tensor, widths: Sequence[int]) -> Tensor | None:
        found = self.table.share(self.rank, x_RW.clone())
        assert [x.shape[1] for x in found] == list(widths)
        return torch.cat(found, dim=1) if self.rank == 0 else None


def run_ranks(works: Sequence[Callable[[], Any]]) -> list[Any]:
    """What each rank returns, or the first error of any."""
    results: list[Any] = [None] * len(works)
    errors: list[BaseException] = []

    def run(number: int, work: Callable[[], Any]) -> None:
        try:
            results[number] = work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise next((error for error in errors if not isinstance(error, threading.BrokenBarrierError)), errors[0])
    return results
