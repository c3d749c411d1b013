"""What a rank needs to speak with the others, in one object: the exchange of its group, and a stream for every purpose.

| stream | from | to | what |
| --- | --- | --- | --- |
| orders | the leader | every other rank | messages: what to compute |
| replies | every other rank | the leader | messages: what came of it |
| rows | a rank of a stage | the rank of the next stage with the same share | the residual stream, float32 |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from brigade.backends.exchange import Alone, Exchange
from brigade.mesh import Mesh
from brigade.parallel.board import Board, State
from brigade.parallel.collectives import GroupEnd, GroupExchange, Lost, RingEnd, SharedExchange, StreamEnd, process_group
from brigade.parallel.memory import MESSAGE_BYTES, Places, Stream, is_within, streams
from brigade.parallel.setup import Setup

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import Store

HEAD = 512  # bytes that every message sends at once: its length, and its beginning
TAGS = {"orders": 1, "replies": 2, "rows": 3}


class Links:
    """All calls of one rank are made by one thread at a time. Whoever waits for a rank that is gone raises `RankFailed`; in a
    worker whose leader closes, every wait is the end of the process."""

    def __init__(
        self, mesh: Mesh, rank: int, board: Board, exchange: Exchange, ends: Mapping[Stream, StreamEnd], here: Sequence[int]
    ) -> None:
        """`here`: the ranks of this rank's host, itself among them."""
        self.mesh, self.rank, self.board, self.exchange, self.ends, self.here = mesh, rank, board, exchange, ends, here
        writes = {s: end for s, end in ends.items() if s.writer == rank}
        reads = {s: end for s, end in ends.items() if s.reader == rank}
        self._orders_to = [end for s, end in writes.items() if s.kind == "orders"]
        self._replies_from = [end for s, end in reads.items() if s.kind == "replies"]
        self._orders_from, self._replies_to, self._rows_to, self._rows_from = (
            next((end for s, end in of.items() if s.kind == kind), None)
            for of, kind in ((reads, "orders"), (writes, "replies"), (writes, "rows"), (reads, "rows"))
        )

    def send_order(self, data: bytes) -> None:
        """From the leader to all others."""
        for end in self._orders_to:
            _send_message(end, data)

    def receive_order(self) -> bytes:
        assert self._orders_from is not None, "the leader receives no orders"
        return _receive_message(self._orders_from)

    def reply(self, data: bytes) -> None:
        assert self._replies_to is not None, "the leader does not reply to itself"
        _send_message(self._replies_to, data)

    def replies(self) -> list[bytes]:
        """One of each other rank, in their order; on the leader."""
        return [_receive_message(end) for end in self._replies_from]

    def send_rows(self, x_TH: Tensor) -> None:
        """To the next stage. Two steps of the largest size find room before the sender waits for the receiver."""
        assert self._rows_to is not None, "the last stage hands on nothing"
        self._rows_to.send(x_TH.detach().float().cpu().contiguous().numpy().reshape(-1).view(np.uint8))

    def receive_rows(self, rows: int, width: int) -> Tensor:
        """Of the stage before, in the memory of the host."""
        import torch

        assert self._rows_from is not None, "the first stage receives nothing"
        x_TH = torch.empty(rows, width)
        self._rows_from.receive(x_TH.numpy().reshape(-1).view(np.uint8))
        return x_TH

    @property
    def seconds(self) -> dict[str, float]:
        """What this rank has waited so far, by what for: `rows` of the stage before or room for its own, `orders`; and the time in
        exchanges, their copies and sums included."""
        rows = sum(end.seconds for end in (self._rows_from, self._rows_to) if end is not None)
        orders = self._orders_from.seconds if self._orders_from is not None else 0.0
        return {"rows": rows, "orders": orders, "exchange": getattr(self.exchange, "seconds", 0.0)}

    def tick(self) -> None:
        """A layer is finished: whoever watches for a hang sees it."""
        self.board.tick(self.rank)

    def close(self) -> None:
        self.board.set_state(self.rank, State.ENDED)


def connect(setup: Setup, rank: int, board: Board, places: Places, store: Store | None, lost: Lost) -> Links:
    """In shared memory where both ends, or all of a group, are on one host; else through the process group."""
    mesh = setup.mesh
    ours = [s for s in streams(mesh) if rank in (s.writer, s.reader)]
    ends: dict[Stream, StreamEnd] = {}
    everyone = None
    if setup.needs_streams_of_group():
        assert store is not None
        everyone = process_group(store, "all", rank, mesh.world, len(set(setup.hosts)) == 1)
    for stream in ours:
        if setup.shares_memory(rank, (stream.writer, stream.reader)):
            place, capacity = places.rings[stream]
            ends[stream] = RingEnd(board, rank, place, capacity, setup.spins, lost)
        else:
            peer = stream.reader if stream.writer == rank else stream.writer
            # The leader must never wait to give an order, since its reader may be waiting for the leader: `Leader.send` keeps what
            # is under way to half of MESSAGE_BYTES. Whoever receives rows waits for nobody who waits for their sender.
            most = 2 * setup.max_rows_bytes if stream.kind == "rows" else 4 * MESSAGE_BYTES
            ends[stream] = GroupEnd(everyone, board, rank, peer, TAGS[stream.kind], lost, most)
    return Links(mesh, rank, board, _exchange(setup, rank, board, places, store, lost), ends, setup.here(rank))


def _exchange(setup: Setup, rank: int, board: Board, places: Places, store: Store | None, lost: Lost) -> Exchange:
    mesh, own = setup.mesh, setup.mesh.tp_rank(rank)
    if mesh.tp == 1:
        return Alone()
    group = mesh.group(rank)
    if setup.shares_slots(rank):
        return SharedExchange(board, rank, places.slots[group[0]], own, mesh.tp, setup.spins, lost)
    assert store is not None
    one_host = is_within(group, setup.here(rank))
    made = process_group(store, f"group/{group[0]}", own, mesh.tp, one_host)
    return GroupExchange(made, board, rank, own, mesh.tp, lost)


def _send_message(end: StreamEnd, data: bytes) -> None:
    head = np.zeros(HEAD, np.uint8)
    head[:8] = np.frombuffer(len(data).to_bytes(8, "little"), np.uint8)
    first = data[: HEAD - 8]
    head[8 : 8 + len(first)] = np.frombuffer(first, np.uint8)
    end.send(head)
    if len(data) > HEAD - 8:
        end.send(np.frombuffer(data, np.uint8)[HEAD - 8 :])


def _receive_message(end: StreamEnd) -> bytes:
    head = np.empty(HEAD, np.uint8)
    end.receive(head)
    length = int.from_bytes(head[:8].tobytes(), "little")
    if length <= HEAD - 8:
        return head[8 : 8 + length].tobytes()
    whole = np.empty(length, np.uint8)
    whole[: HEAD - 8] = head[8:]
    end.receive(whole[HEAD - 8 :])
    return whole.tobytes()
