"""Proof, before a model is loaded, that the row rule holds at its own shapes: for each of its products, and for attention. Where
ranks share the model, also that a rank's outputs and heads are those of the whole.

A library chooses its algorithm by the shape, so what small products prove says little of large ones. Every distinct shape is tried
once in a process: some rows alone, and the same rows among many, on all threads and on one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from brigade.backends.base import AttentionParams, Backend
from brigade.backends.kv_cache import KVCache
from brigade.batch import Batch, Span, Wanted
from brigade.config import ModelConfig

WHOLE_ROWS = 520  # more than a prompt's chunk
PROBE_ROWS = (1, 3, 5, 16, 33, 100)
FIRST = 3  # where the few rows begin among the many
MOST_ELEMENTS = 1 << 21  # of a probed matrix; a library cuts outputs among threads, but how K is summed shows with fewer of them
LENGTH = 150  # positions of the probed attention: three key tiles
CHUNKS = (0, 37, 100, 101, 105, LENGTH)
NEIGHBOURS = 6
BLOCK_SIZES = (64, 16)  # tiles read where they lie, and tiles gathered


@dataclass(frozen=True)
class Product:
    """`tree`: row-parallel, as a tree of partial sums. `shares`: of how many ranks, each with its part of the outputs."""

    k: int
    n: int
    tree: bool
    shares: int = 1

    def __str__(self) -> str:
        return f"products of a {'row' if self.tree else 'column'}-parallel matrix [{self.n}, {self.k}]"


@dataclass(frozen=True)
class Attention:
    heads: int
    kv_heads: int
    dim: int
    scale: float
    softcap: float | None
    window: int | None
    shares: int = 1

    def __str__(self) -> str:
        return f"attention of {self.heads} heads of {self.dim} channels over {self.kv_heads} key-value heads"


Operation = Product | Attention


def operations(config: ModelConfig, tp: int = 1) -> list[Operation]:
    """Every distinct product of a model, then its attention. Blocks of K are multiplied alone on any layout, so only outputs and
    heads are cut."""
    hidden, gated = config.hidden_size, 2 if config.gated else 1
    queries, width = config.num_heads * config.head_dim, config.embedding_size or hidden
    found: dict[Operation, None] = {
        Product(hidden, queries + 2 * config.num_kv_heads * config.head_dim, False, tp): None,
        Product(queries, hidden, True): None,
        Product(width, config.vocab_size, False, tp): None,
    }
    if width != hidden or config.embedding_size is not None:
        found |= {Product(width, hidden, False): None, Product(hidden, width, False): None}
    inner = []
    if any(not config.is_moe(i) for i in range(config.num_layers)):
        inner.append(config.ffn_size)
    if config.moe is not None:
        found[Product(hidden, config.moe.num_experts, False)] = None
        inner += [size for size in (config.moe.expert_ffn_size, config.moe.shared_ffn_size) if size]
    for size in inner:
        found |= {Product(hidden, size * gated, False, tp): None, Product(size, hidden, True): None}
    for window in dict.fromkeys(config.window(i) for i in range(config.num_layers)):
        attention = Attention(
            config.num_heads, config.num_kv_heads, config.head_dim, config.scale, config.attention_softcap, window, tp
        )  # fmt: skip
        found[attention] = None
    return list(found)


_tried: dict[tuple[Any, ...], bool] = {}


def first_broken(backend: Backend, way: str, wanted: Iterable[Operation]) -> Operation | None:
    """The first operation whose rows depend on other rows, or on the number of threads or ranks; None where all hold. `way`: how
    this backend makes its products now."""
    for operation in wanted:
        key = (type(backend), way, backend.device, torch.get_num_threads(), operation)
        if key not in _tried:
            holds = product_holds if isinstance(operation, Product) else attention_holds
            _tried[key] = holds(backend, operation)
        if not _tried[key]:
            return operation
    return None


def product_holds(backend: Backend, product: Product) -> bool:
    generator = torch.Generator().manual_seed(1)
    n = min(product.n, max(64, MOST_ELEMENTS // product.k))
    x = torch.randn(WHOLE_ROWS, product.k, generator=generator).to(backend.device)
    weight = torch.randn(n, product.k, generator=generator).to(backend.device)
    multiply = backend.tree_linear if product.tree else backend.linear
    whole = multiply(x, weight, None)
    for rows in PROBE_ROWS:
        if not torch.equal(multiply(x[FIRST : FIRST + rows], weight, None), whole[FIRST : FIRST + rows]):
            return False
    for share in range(product.shares if product.shares > 1 else 0):
        first, last = n * share // product.shares, n * (share + 1) // product.shares
        for rows in (1, WHOLE_ROWS):
            if not torch.equal(multiply(x[:rows], weight[first:last].contiguous(), None), whole[:rows, first:last]):
                return False
    return same_on_one_thread(lambda: multiply(x[: PROBE_ROWS[-2]], weight, None), whole[: PROBE_ROWS[-2]])


def same_on_one_thread(compute: Callable[[], Tensor], expected: Tensor) -> bool:
    threads = torch.get_num_threads()
    if threads == 1:
        return True
    torch.set_num_threads(1)
    try:
        return torch.equal(compute(), expected)
    finally:
        torch.set_num_threads(threads)


def attention_holds(backend: Backend, shape: Attention) -> bool:
    """A sequence at once equals itself in chunks and single tokens, beside others that decode."""
    generator = torch.Generator().manual_seed(2)
    heads = (shape.heads, shape.kv_heads, shape.kv_heads)
    qkv = [torch.randn(LENGTH, count, shape.dim, generator=generator).to(backend.device) for count in heads]
    for block_size in BLOCK_SIZES:
        whole = _attend(backend, shape, block_size, qkv, (0, LENGTH), 0)
        if not torch.equal(_attend(backend, shape, block_size, qkv, CHUNKS, NEIGHBOURS), whole):
            return False
        if not same_on_one_thread(lambda size=block_size: _attend(backend, shape, size, qkv, (0, LENGTH), 0), whole):
            return False
        if not _shares_hold(backend, shape, block_size, qkv, whole):
            return False
    return True


def _shares_hold(backend: Backend, shape: Attention, block_size: int, qkv: list[Tensor], whole: Tensor) -> bool:
    """Each rank's query heads, with the key-value heads that they read, give their part of the whole."""
    if shape.shares == 1:
        return True
    each, per = shape.heads // shape.shares, shape.heads // shape.kv_heads
    for first in range(0, shape.heads, each):
        kv = slice(first // per, (first + each - 1) // per + 1)
        part = [qkv[0][:, first : first + each].contiguous(), *(x[:, kv].contiguous() for x in qkv[1:])]
        own = replace(shape, heads=each, kv_heads=part[1].shape[1], shares=1)
        if not torch.equal(_attend(backend, own, block_size, part, CHUNKS, NEIGHBOURS), whole[:, first : first + each]):
            return False
    return True


def _attend(
    backend: Backend, shape: Attention, block_size: int, qkv: list[Tensor], chunks: tuple[int, ...], neighbours: int
) -> Tensor:
    each = -(-LENGTH // block_size)
    cache = KVCache.allocate(
        1, each * (1 + neighbours), shape.kv_heads, block_size, backend.cache_dim(shape.dim), device=backend.device
    )  # fmt: skip
    tables = [list(range(i * each, (i + 1) * each)) for i in range(1 + neighbours)]
    params, made = AttentionParams(0, shape.scale, shape.window, shape.softcap), []
    for number, (start, end) in enumerate(zip(chunks, chunks[1:], strict=False)):
        others = [Span([0], number, table, Wanted.NONE) for table in tables[1:]]
        step = backend.begin_step(Batch((Span([0] * (end - start), start, tables[0]), *others)), cache, frozenset({shape.window}))
        rows = [torch.cat([x[start:end], x[:neighbours]]) for x in qkv]
        made.append(backend.attention(*rows, params, step)[: end - start])
    return torch.cat(made)
