"""What the leader says to the other ranks: a few kinds of orders, as msgpack. A step carries plain integers, copied from the batch,
and nothing of a request."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from brigade.backends.sums import TensorSum
from brigade.batch import Batch, Span, Wanted


class Load(msgspec.Struct, tag="load", frozen=True):
    """Read your part of the weights."""


class MakeCache(msgspec.Struct, tag="cache", frozen=True):
    """Take the memory of an engine's cache. Block numbers mean the same on every rank."""

    number: int
    blocks: int
    block_size: int


class DropCache(msgspec.Struct, tag="drop", frozen=True):
    number: int


class Step(msgspec.Struct, tag="step", frozen=True):
    """One step with one engine's cache: of each span its new ids, the position of the first, its blocks, and what it wants."""

    cache: int
    spans: Sequence[tuple[Sequence[int], int, Sequence[int], int]]

    @classmethod
    def of(cls, cache: int, batch: Batch) -> Step:
        return cls(cache, [(span.token_ids, span.start, span.blocks, int(span.wanted)) for span in batch.spans])

    def batch(self) -> Batch:
        return Batch(tuple(Span(ids, start, blocks, Wanted(wanted)) for ids, start, blocks, wanted in self.spans))


class Measure(msgspec.Struct, tag="measure", frozen=True):
    """Say how you spent your time since the last time you were asked."""


class Count(msgspec.Struct, tag="count", frozen=True):
    """Say the sums of your part of every tensor, for the model's fingerprint."""


Order = Load | MakeCache | DropCache | Step | Measure | Count


class Room(msgspec.Struct, tag="room", frozen=True):
    """The first answer, before any weight is read: as what this rank computes, how many bytes it has for a cache beside its weights
    and activations, and how many of them a position takes."""

    numerics_id: str
    cache_bytes: int
    position_bytes: int


class Loaded(msgspec.Struct, tag="loaded", frozen=True):
    """The answer to `Load`: bytes of weights that a step reads here, of the layers and of the head."""

    layer_bytes: int
    head_bytes: int


class Times(msgspec.Struct, tag="times", frozen=True):
    """The answer to `Measure`, in seconds: all of it, what of it was spent waiting for an order or for rows of the stage before,
    and what in exchanges."""

    elapsed: float
    waited: float
    exchanged: float


class Sums(msgspec.Struct, tag="sums", frozen=True):
    """The answer to `Count`."""

    tensors: Sequence[TensorSum]


Reply = Room | Loaded | Times | Sums
encode = msgspec.msgpack.Encoder().encode
decode_order = msgspec.msgpack.Decoder(Order).decode
decode_reply = msgspec.msgpack.Decoder(Reply).decode
