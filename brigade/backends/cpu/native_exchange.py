"""An `Exchange` as the kernels call it, in the middle of a layer."""

from __future__ import annotations

import ctypes

import numpy as np
import torch
from torch import Tensor

from brigade.backends.cpu.library import BrExchange, BrMaximum, BrTree
from brigade.backends.exchange import Exchange


class NativeExchange:
    """`address` is that of a `BrExchange`: the exchange's own, or one whose calls come back to Python. It is good for as long as
    this object lives."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self._error: BaseException | None = None
        if exchange.native is not None:
            self.address = exchange.native
            return
        calls = {"tree": BrTree(self._tree), "maximum": BrMaximum(self._maximum)}
        self._struct = BrExchange(rank=exchange.rank, size=exchange.size, **calls)
        self.address = ctypes.addressof(self._struct)

    def check(self, result: int) -> None:
        """After every call of the kernels that may exchange."""
        if result == 0:
            return
        error, self._error = self._error, None
        raise self.exchange.lost() if error is None else error

    def _tree(self, state: int | None, part: int, rows: int, width: int, whole: int) -> int:
        return self._kept(lambda: self._sum(_tensor(part, rows * width, whole).view(rows, width)))

    def _maximum(self, state: int | None, most: int, count: int) -> int:
        return self._kept(lambda: self._most(_tensor(most, count, 0)))

    def _sum(self, part: Tensor) -> None:
        part.copy_(self.exchange.tree(part))

    def _most(self, most_T: Tensor) -> None:
        most_T.copy_(self.exchange.maximum(most_T))

    def _kept(self, call) -> int:
        """No exception can pass through the kernels: it waits here until they have returned."""
        try:
            call()
            return 0
        except BaseException as error:
            self._error = error
            return 1


def _tensor(address: int, count: int, whole: int) -> Tensor:
    kind = ctypes.c_int32 if whole else ctypes.c_float
    return torch.from_numpy(np.ctypeslib.as_array((kind * count).from_address(address)))
