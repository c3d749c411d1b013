"""Everything that ranks say to each other, in two ways with the same results: shared memory (`csrc/exchange.cpp`), and a process
group of `torch.distributed`.

Two kinds of talk. In an *exchange* all ranks of a group give numbers and get a function of all of them. On a *stream* one rank
writes bytes and another reads them in the same order; `links.py` gives every stream its purpose.

Whoever waits for a rank that is gone raises what `lost` gives: in bounded time, never a wrong number.
"""

from __future__ import annotations

import ctypes as c
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

import numpy as np

from brigade.backends.cpu.library import BrExchange, BrRing, BrSlots, BrWait, kernels
from brigade.backends.exchange import Exchange
from brigade.errors import ConfigError
from brigade.parallel.board import Board
from brigade.parallel.memory import LINE, SLOT_BYTES

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup, Store

Lost = Callable[[BaseException | None], BaseException]  # what to raise where a rank is gone, from the error that showed it
FOREVER = timedelta(days=365)  # whoever waits is ended by the watchers (`watch.py`), never by a time of its own


class CountedExchange(Exchange):
    """What both ways have in common. `calls`, `bytes` (of this rank's numbers) and `seconds` (waiting included) since the start."""

    calls: int
    bytes: int
    seconds: float

    @abstractmethod
    def all_of(self, mine: Tensor, wanted: bool = True) -> Sequence[Tensor]:
        """The tensors of all ranks, in their order; all have one shape. Nothing where they are not wanted."""

    @abstractmethod
    def gather_bytes(self, mine: bytes) -> list[bytes]:
        """What every rank gives, on every rank."""

    def choose(self, x_TH: Tensor, owners_T: Tensor) -> Tensor:
        """The sum of all ranks' bit patterns, of which all but the owner's are zero."""
        import torch

        bits_TH = x_TH.contiguous().view(torch.int32)
        return self.tree(torch.where((owners_T == self.rank)[:, None], bits_TH, 0)).view(x_TH.dtype)

    def gather(self, x_RW: Tensor, widths: Sequence[int]) -> Tensor | None:
        import torch

        most = max(widths)
        mine_RW = x_RW if x_RW.shape[1] == most else torch.nn.functional.pad(x_RW, (0, most - x_RW.shape[1]))
        parts = self.all_of(mine_RW.contiguous(), wanted=self.rank == 0)
        return torch.cat([part[:, :width] for part, width in zip(parts, widths, strict=True)], dim=1) if self.rank == 0 else None


class SharedExchange(CountedExchange):
    """Over the slots of a group whose ranks are on one host; models on the cpu."""

    def __init__(self, board: Board, own_rank: int, place: int, rank: int, size: int, spins: int, lost: Lost) -> None:
        """`own_rank`: of the whole mesh; `rank` of `size`: in the group. `place`: of the group's slots in the host's memory."""
        self.rank, self.size, self._lost = rank, size, lost
        self._board = board  # its memory must stay
        at = board.memory.at(place)
        self._slots = BrSlots(rank, size, SLOT_BYTES, at, at + LINE, wait_of(board, own_rank, spins))
        self._exchange = BrExchange()
        if kernels().br_slots_attach(c.byref(self._slots), c.byref(self._exchange)):
            raise ConfigError(f"{size} ranks cannot exchange in shared memory on this system; choose exchange 'group'")
        self.native = c.addressof(self._exchange)
        self._tree, self._maximum = self._exchange.tree, self._exchange.maximum

    calls = property(lambda self: self._slots.calls)
    bytes = property(lambda self: self._slots.bytes)
    seconds = property(lambda self: self._slots.seconds)

    def lost(self) -> BaseException:
        return self._lost(None)

    def _done(self, outcome: int) -> None:
        if outcome:
            raise self.lost()

    def tree(self, part: Tensor) -> Tensor:
        whole = not part.dtype.is_floating_point
        assert part.is_contiguous() and part.element_size() == 4 and part.device.type == "cpu"
        self._done(self._tree(self._exchange.state, part.data_ptr(), 1, part.numel(), whole))
        return part

    def maximum(self, most_T: Tensor) -> Tensor:
        most_T = most_T.clone()
        self._done(self._maximum(self._exchange.state, most_T.data_ptr(), most_T.numel()))
        return most_T

    def all_of(self, mine: Tensor, wanted: bool = True) -> Sequence[Tensor]:
        import torch

        assert mine.is_contiguous() and mine.device.type == "cpu"
        found = torch.empty((self.size, *mine.shape), dtype=mine.dtype) if wanted else None
        self._gather(mine.data_ptr(), mine.nbytes, None if found is None else found.data_ptr())
        return [] if found is None else list(found)

    def gather_bytes(self, mine: bytes) -> list[bytes]:
        length, lengths = c.c_int64(len(mine)), (c.c_int64 * self.size)()  # held until they were read
        self._gather(c.addressof(length), 8, c.addressof(lengths))
        most = max(lengths)
        given, found = c.create_string_buffer(mine, most + 1), c.create_string_buffer(most * self.size + 1)
        self._gather(c.addressof(given), most, c.addressof(found))
        return [found.raw[most * rank : most * rank + length] for rank, length in enumerate(lengths)]

    def _gather(self, mine: int, size: int, found: int | None) -> None:
        self._done(kernels().br_slots_gather(self.native, mine, size, found))


class GroupExchange(CountedExchange):
    """Over a process group, by gathering every rank's tensor; then the same tree on each. With gloo through the host's memory."""

    def __init__(self, group: ProcessGroup, board: Board, own_rank: int, rank: int, size: int, lost: Lost) -> None:
        self.rank, self.size, self._lost = rank, size, lost
        self._group, self._board, self._own_rank = group, board, own_rank
        self.calls, self.bytes, self.seconds = 0, 0, 0.0

    def all_of(self, mine: Tensor, wanted: bool = True) -> Sequence[Tensor]:
        import torch

        start = time.perf_counter()
        given = mine.cpu()
        found = [torch.empty_like(given) for _ in range(self.size)]
        with self._board.waiting(self._own_rank):
            try:
                self._group.allgather([found], [given]).wait()
            except RuntimeError as error:
                raise self._lost(error) from error
        self.calls, self.bytes, self.seconds = self.calls + 1, self.bytes + mine.nbytes, self.seconds + time.perf_counter() - start
        return [part.to(mine.device) for part in found] if wanted else []

    def tree(self, part: Tensor) -> Tensor:
        parts = self.all_of(part)
        while len(parts) > 1:
            parts = [parts[i] + parts[i + 1] for i in range(0, len(parts), 2)]
        return parts[0]

    def maximum(self, most_T: Tensor) -> Tensor:
        """Numbers that are not negative stand in the order of their bits, NaN last."""
        import torch

        return torch.stack([part.view(torch.int32) & 0x7FFFFFFF for part in self.all_of(most_T)]).amax(0).view(most_T.dtype)

    def gather_bytes(self, mine: bytes) -> list[bytes]:
        import torch

        lengths = [int(length) for length in self.all_of(torch.tensor([len(mine)]))]
        padded = torch.from_numpy(np.frombuffer(mine.ljust(max(lengths), b"\0"), np.uint8).copy())
        parts = self.all_of(padded) if max(lengths) else [padded] * self.size
        return [part.numpy()[:length].tobytes() for part, length in zip(parts, lengths, strict=True)]


class StreamEnd(Protocol):
    """This rank's end of a stream. `data` and `into` are flat arrays of bytes."""

    seconds: float  # waited so far

    def send(self, data: np.ndarray) -> None: ...

    def receive(self, into: np.ndarray) -> None: ...


class RingEnd:
    """In shared memory. What is larger than the ring goes in pieces, so its writer waits for the reader."""

    def __init__(self, board: Board, own_rank: int, place: int, capacity: int, spins: int, lost: Lost) -> None:
        self._board, self._lost = board, lost
        at = board.memory.at(place)
        self._ring = BrRing(at + 2 * LINE, capacity, at, at + LINE, wait_of(board, own_rank, spins))

    seconds = property(lambda self: self._ring.wait.seconds)

    def send(self, data: np.ndarray) -> None:
        self._move(kernels().br_ring_send, data)

    def receive(self, into: np.ndarray) -> None:
        self._move(kernels().br_ring_receive, into)

    def _move(self, call: Callable[..., int], data: np.ndarray) -> None:
        first, done = data.ctypes.data, 0
        while done < data.size:  # a signal may come in between; Python sees to it here
            moved = call(c.byref(self._ring), first + done, data.size - done)
            if moved < 0:
                raise self._lost(None)
            done += moved


class GroupEnd:
    """Through the process group. What was sent is kept until it is more than `most` bytes; then the oldest is waited for."""

    def __init__(self, group: ProcessGroup, board: Board, own_rank: int, peer: int, tag: int, lost: Lost, most: int) -> None:
        self._group, self._board, self._own_rank, self._peer, self._tag, self._lost = group, board, own_rank, peer, tag, lost
        self._most, self._bytes = most, 0
        self._sent: deque = deque()
        self.seconds = 0.0

    def send(self, data: np.ndarray) -> None:
        import torch

        kept = torch.from_numpy(data.copy())
        self._bytes += kept.nbytes
        try:
            self._sent.append((self._group.send([kept], self._peer, self._tag), kept))
        except RuntimeError as error:
            raise self._lost(error) from error
        while len(self._sent) > 1 and self._bytes > self._most:
            work, oldest = self._sent.popleft()
            self._bytes -= oldest.nbytes
            self._wait(work)

    def receive(self, into: np.ndarray) -> None:
        import torch

        try:
            work = self._group.recv([torch.from_numpy(into)], self._peer, self._tag)
        except RuntimeError as error:
            raise self._lost(error) from error
        self._wait(work)

    def _wait(self, work: object) -> None:
        start = time.perf_counter()
        with self._board.waiting(self._own_rank):
            try:
                work.wait()
            except RuntimeError as error:
                raise self._lost(error) from error
        self.seconds += time.perf_counter() - start


def wait_of(board: Board, own_rank: int, spins: int) -> BrWait:
    return BrWait(board.stop_address(), board.state_address(own_rank), spins, 0.0)


def process_group(store: Store, name: str, rank: int, size: int, one_host: bool) -> ProcessGroup:
    """A group of its own, of gloo, which works through the host's memory for any device: the process's default group belongs to the
    user. Between the ranks of one host by its own loop."""
    import torch.distributed as dist

    store = dist.PrefixStore(name, store)
    options = dist.ProcessGroupGloo._Options()
    loop = {"hostname": "127.0.0.1"} if one_host else {}
    options._devices = [dist.ProcessGroupGloo.create_device(**loop) if loop else dist.ProcessGroupGloo.create_default_device()]
    options._timeout = FOREVER
    return dist.ProcessGroupGloo(store, rank, size, options)
