"""Paged attention against its definition, and its independence of blocks, chunks and company."""

from __future__ import annotations

import random

import pytest
import torch

from brigade.backends.base import AttentionParams
from brigade.backends.kv_cache import KVCache
from brigade.backends.reference import ReferenceBackend
from brigade.backends.reference import attention as room
from brigade.batch import Batch, Span
from tests.breadth import one_in

BACKEND = ReferenceBackend()
LENGTH = 150


def rows(heads: int, dim: int, seed: int, length: int = LENGTH) -> torch.Tensor:
    return torch.randn(length, heads, dim, generator=torch.Generator().manual_seed(seed))


def by_definition(q, k, v, params: AttentionParams) -> torch.Tensor:
    """Softmax over the visible positions, in double precision."""
    group = q.shape[1] // k.shape[1]
    k, v = k.double().repeat_interleave(group, 1), v.double().repeat_interleave(group, 1)
    scores = torch.einsum("qnd,knd->nqk", q.double() * params.scale, k)
    if params.softcap:
        scores = torch.tanh(scores / params.softcap) * params.softcap
    place = torch.arange(q.shape[0])
    hidden = place[None, :] > place[:, None]
    if params.window:
        hidden |= place[None, :] <= place[:, None] - params.window
    scores = scores.masked_fill(hidden, float("-inf"))
    return torch.einsum("nqk,knd->qnd", torch.softmax(scores, -1), v)


def paged(q, k, v, params: AttentionParams, chunks: list[int], block_size: int, seed: int = 0) -> torch.Tensor:
    """The same in chunks, with scattered blocks and a neighbour in every batch."""
    blocks = list(range(1024 // block_size))
    random.Random(seed).shuffle(blocks)
    cache = KVCache.allocate(1, len(blocks), k.shape[1], block_size, k.shape[2])
    other = blocks.pop()
    out, start = [], 0
    for count in chunks:
        end = start + count
        span = Span(range(start, end), start, blocks[: -(-end // block_size)])
        batch = Batch((Span([0, 0, 0], 0, [other]), span))
        step = BACKEND.begin_step(batch, cache, [params.window])

        def with_neighbour(x, start=start, end=end):
            return torch.cat((x[:3], x[start:end]))

        out.append(BACKEND.attention(with_neighbour(q), with_neighbour(k), with_neighbour(v), params, step)[3:])
        start = end
    return torch.cat(out)


SHAPES = [(4, 4, 8), (4, 2, 16), (6, 1, 12), (16, 16, 64)]


@pytest.mark.parametrize(("heads", "kv_heads", "dim"), SHAPES)
@pytest.mark.parametrize("window", [None, 1, 9, 64, 100])
def test_it_is_attention(heads: int, kv_heads: int, dim: int, window: int | None) -> None:
    q, k, v = rows(heads, dim, 0), rows(kv_heads, dim, 1), rows(kv_heads, dim, 2)
    params = AttentionParams(0, dim**-0.5, window, 5.0 if window == 9 else None)
    found = paged(q, k, v, params, [LENGTH], 64)
    assert torch.allclose(found.double(), by_definition(q, k, v, params), atol=2e-6)


@pytest.mark.parametrize(("shape", "window"), one_in(2, SHAPES, [None, 70]), ids=str)
def test_blocks_chunks_and_threads_do_not_show(shape: tuple[int, int, int], window: int | None) -> None:
    heads, kv_heads, dim = shape
    q, k, v = rows(heads, dim, 0), rows(kv_heads, dim, 1), rows(kv_heads, dim, 2)
    params = AttentionParams(0, dim**-0.5, window)
    expected = paged(q, k, v, params, [LENGTH], 64)
    for threads, block_size in ((1, 8), (2, 64)):
        torch.set_num_threads(threads)
        for chunks in ([1] * LENGTH, [50, 50, 50], [63, 1, 1, 20, 65], [5] * 30):
            assert torch.equal(paged(q, k, v, params, chunks, block_size, seed=len(chunks)), expected)


@pytest.mark.parametrize("threads", [1, 2])
def test_reading_tiles_in_place_gives_the_bits_of_gathering_them(monkeypatch, threads: int) -> None:
    torch.set_num_threads(threads)
    q, k, v = rows(16, 64, 0), rows(16, 64, 1), rows(16, 64, 2)
    params = AttentionParams(0, 0.125)
    assert 16 * 64 * room.KV_TILE * 4 >= room.GATHER_BELOW
    in_place = paged(q, k, v, params, [100, 50], 64)
    monkeypatch.setattr(room, "GATHER_BELOW", 1 << 60)
    assert torch.equal(paged(q, k, v, params, [100, 50], 64), in_place)


@pytest.mark.parametrize("block_size", [8, 32, 64])
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_broken_requests_blocks_are_clean_for_the_next(broken: float, block_size: int) -> None:
    """Its numbers neither stay in a block for the next owner, nor reach a neighbour whose last tile is not full."""
    q, k, v = rows(6, 20, 1), rows(2, 20, 2), rows(2, 20, 3)
    bad, params, own = torch.full_like(k, broken), AttentionParams(0, 0.25), list(range(3, 3 + 192 // block_size))
    for length in (1, 20, 33, 70):
        expected = paged(q, k, v, params, [length], block_size)
        cache = KVCache.allocate(1, 64, 2, block_size, 20)
        step = BACKEND.begin_step(Batch((Span(range(LENGTH), 0, own),)), cache, [None])
        BACKEND.attention(q, bad, bad, params, step)
        step = BACKEND.begin_step(Batch((Span(range(3), 0, [0]), Span(range(length), 0, own[::-1]))), cache, [None])
        found = BACKEND.attention(*(torch.cat((x[:3], y[:length])) for x, y in ((q, q), (bad, k), (bad, v))), params, step)
        assert torch.equal(found[3:], expected)
