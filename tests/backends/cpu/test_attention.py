"""The attention kernel against its definition in double precision; and that blocks, chunks, threads and old content do not show."""

from __future__ import annotations

import random

import pytest
import torch

from brigade.backends.base import AttentionParams
from brigade.backends.cpu.library import choose_path, find_kernels, kernels
from brigade.backends.kv_cache import KVCache
from brigade.backends.registry import get_backend
from brigade.batch import Batch, Span
from tests.backends.cpu.paths import PATHS
from tests.backends.test_attention import by_definition, rows
from tests.breadth import one_in

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

LENGTH = 150
# (heads, key-value heads, channels): groups of every kind, and channels that fill no vector.
SHAPES = [(5, 5, 2), (4, 4, 8), (6, 2, 20), (6, 1, 34), (16, 16, 64), (8, 2, 80), (3, 1, 128), (20, 1, 16), (1, 1, 512)]
# (window, softcap, steps)
SETTINGS = [
    (None, None, "prefill"), (None, None, "decode"), (1, None, "chunks"), (9, 5.0, "decode"), (64, None, "chunks"),
    (100, 20.0, "prefill"),
]  # fmt: skip
# (threads, steps, block size)
COMPANY = [(1, "prefill", 32), (2, "chunks", 32), (2, "decode", 32), (1, "chunks", 64), (1, "decode", 64)]
STEPS = {"prefill": [LENGTH], "chunks": [63, 1, 1, 20, 65], "decode": [1] * LENGTH}
# A bfloat16 cache: queries, keys, values and weights are rounded, sums are not.
TOLERANCE = {torch.float32: 4e-6, torch.bfloat16: 1.5e-2}


@pytest.fixture(scope="module")
def backend():
    return get_backend("cpu")


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest):
    choose_path(request.param)
    yield request.param
    choose_path("")


def paged(backend, q, k, v, params, chunks, block_size=64, dtype=torch.float32, seed=0, before=0.0) -> torch.Tensor:
    """In chunks, with scattered blocks that held `before`, and a neighbour in every batch."""
    blocks = list(range(512 // block_size))
    random.Random(seed).shuffle(blocks)
    cache = KVCache.allocate(1, len(blocks), k.shape[1], block_size, backend.cache_dim(k.shape[2]), dtype)
    for tensor in (*cache.keys, *cache.values):
        tensor.fill_(before)
    other = blocks.pop()
    out, start = [], 0
    for count in chunks:
        end = start + count
        span = Span(range(start, end), start, blocks[: -(-end // block_size)])
        step = backend.begin_step(Batch((Span([0, 0, 0], 0, [other]), span)), cache, [params.window])
        both = [torch.cat((x[:3], x[start:end])) for x in (q, k, v)]
        out.append(backend.attention(*both, params, step)[3:])
        start = end
    return torch.cat(out)


def tensors(heads: int, kv_heads: int, dim: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return rows(heads, dim, 0), rows(kv_heads, dim, 1), rows(kv_heads, dim, 2)


def rounded(dtype: torch.dtype, *each: torch.Tensor) -> list[torch.Tensor]:
    return [x.to(dtype).float() for x in each]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), SHAPES)
def test_it_is_attention(path: str, backend, heads: int, kv_heads: int, dim: int, dtype: torch.dtype) -> None:
    q, k, v = tensors(heads, kv_heads, dim)
    for window, softcap, steps in SETTINGS:
        params = AttentionParams(0, dim**-0.5, window, softcap)
        expected = by_definition(*rounded(dtype, q, k, v), params)
        found = paged(backend, q, k, v, params, STEPS[steps], dtype=dtype)
        assert (found - expected).abs().max() <= TOLERANCE[dtype]


@pytest.mark.parametrize("wrong", ["scale", "window", "softcap"])
def test_the_comparison_sees_a_wrong_setting(backend, wrong: str) -> None:
    q, k, v = tensors(6, 2, 20)
    right = {"scale": 0.25, "window": 40, "softcap": 5.0}
    found = paged(backend, q, k, v, AttentionParams(0, **right), [LENGTH], dtype=torch.bfloat16)
    off = AttentionParams(0, **right | {wrong: {"scale": 0.3, "window": 41, "softcap": 6.0}[wrong]})
    assert (found - by_definition(q, k, v, off)).abs().max() > 2 * TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize(("shape", "window", "dtype"), one_in(2, SHAPES, [None, 70], [torch.float32, torch.bfloat16]), ids=str)
def test_blocks_chunks_threads_and_old_content_do_not_show(path: str, backend, shape, window, dtype) -> None:
    q, k, v = tensors(*shape)
    dim = shape[-1]
    params = AttentionParams(0, dim**-0.5, window)
    expected = paged(backend, q, k, v, params, [LENGTH], dtype=dtype)
    for threads, steps, block_size in COMPANY:
        kernels().br_threads(threads, -1)
        found = paged(backend, q, k, v, params, STEPS[steps], block_size, dtype, seed=threads, before=-1e30)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_broken_requests_blocks_are_clean_for_the_next(path: str, backend, broken: float, dtype: torch.dtype) -> None:
    q, k, v = tensors(6, 2, 20)
    params = AttentionParams(0, 0.25)
    for length in (1, 20, 33, 70):
        expected = paged(backend, q, k, v, params, [length], dtype=dtype)
        cache = KVCache.allocate(1, 4, 2, 64, backend.cache_dim(20), dtype)
        for values, rows_stored in ((torch.full_like(k, broken), LENGTH), (None, length)):
            step = backend.begin_step(Batch((Span(range(rows_stored), 0, [2, 0, 3]),)), cache, [None])
            here = [x[:rows_stored] for x in ((q, k, v) if values is None else (q, values, values))]
            found = backend.attention(*here, params, step)
        assert torch.equal(found, expected)
