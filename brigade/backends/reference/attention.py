"""Paged attention in plain torch: one path for decode, chunk and prefill, in one fixed order.

The keys of a sequence are cut into tiles of `KV_TILE` positions, counted from position 0; its new queries into tiles of a
few rows. A work item is one (query tile, key tile) pair. For every item: scores, then weights relative to the row's maximum
over *all* its tiles (a maximum is exact in any order), then the tile's sum and weighted values; the tiles are added in order
of position. Tiles that a row may not see add exact zeros, so neither the chunk nor the company of a row shows in its result.
Where a result is not finite, the group is computed again with values that hidden positions cannot spoil: see `_product_seen`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from brigade.backends.base import AttentionParams
from brigade.backends.exact_math import halving_sum
from brigade.backends.kv_cache import KVCache
from brigade.backends.reference.matmul import multiply_each
from brigade.batch import Batch

KV_TILE = 64
DECODE_ROWS = 4  # query rows of a small tile; also the least a batched product may have to keep the row rule
CHUNK_ROWS = 32
GATHER_BELOW = 1 << 15  # bytes of a key tile under which one gather beats a call for each tile


@dataclass(frozen=True, slots=True)
class TileGroup:
    """All query tiles of one height. Q query tiles, I work items, ordered by query tile, then by key tile."""

    rows_QM: Tensor  # rows of the packed batch; padding repeats row 0
    keep_QM: Tensor  # True where the row is real
    flat_rows: Tensor  # the real rows, in the order of rows_QM[keep_QM]
    item_tile_I: Tensor  # each item's query tile
    blocks_IB: Tensor  # each item's cache blocks
    blocks: list[list[int]]
    hidden_IMK: Tensor  # True where the query may not see the key
    rounds: list[tuple[Tensor, Tensor]]  # j-th: the query tiles that have a j-th key tile, and those items


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    write_blocks_T: Tensor
    write_offsets_T: Tensor
    begun_blocks: Tensor  # those written from their beginning on
    groups: dict[int | None, list[TileGroup]]  # by window


def plan_attention(
    batch: Batch, positions_T: Tensor, block_size: int, windows: Iterable[int | None], device: torch.device
) -> AttentionPlan:
    positions = positions_T.cpu().numpy()
    # Blocks that nothing was written to yet are left out: they may hold anything.
    tables = [np.asarray(span.blocks[: -(-span.end // block_size)], dtype=np.int64) for span in batch.spans]
    write_blocks = np.concatenate(
        [table[np.arange(span.start, span.end) // block_size] for table, span in zip(tables, batch.spans, strict=True)]
    )
    groups = {window: _groups(batch, tables, block_size, window, device) for window in windows}
    offsets = positions % block_size
    written = (torch.from_numpy(array).to(device) for array in (write_blocks, offsets, write_blocks[offsets == 0]))
    return AttentionPlan(*written, groups)


def _groups(batch: Batch, tables: list[np.ndarray], block_size: int, window: int | None, device: torch.device) -> list[TileGroup]:
    """Short spans in small tiles, long ones in large tiles: a row's result is the same in either."""
    tiles: dict[int, list[tuple[int, int, int, int]]] = {DECODE_ROWS: [], CHUNK_ROWS: []}  # (span, row, start, rows)
    row = 0
    for index, span in enumerate(batch.spans):
        height = DECODE_ROWS if len(span.token_ids) <= DECODE_ROWS else CHUNK_ROWS
        for offset in range(0, len(span.token_ids), height):
            count = min(height, len(span.token_ids) - offset)
            tiles[height].append((index, row + offset, span.start + offset, count))
        row += len(span.token_ids)
    return [_group(height, members, tables, block_size, window, device) for height, members in tiles.items() if members]


def _group(
    height: int,
    tiles: list[tuple[int, int, int, int]],
    tables: list[np.ndarray],
    block_size: int,
    window: int | None,
    device: torch.device,
) -> TileGroup:
    per_tile = KV_TILE // block_size
    first_row = np.array([tile[1] for tile in tiles])
    first_pos = np.array([tile[2] for tile in tiles])
    counts = np.array([tile[3] for tile in tiles])
    lanes = np.arange(height)
    keep_QM = lanes < counts[:, None]
    rows_QM = np.where(keep_QM, first_row[:, None] + lanes, 0)
    last_tile = (first_pos + counts - 1) // KV_TILE
    # Key tiles that no row of the query tile can see any more are left out: they would add exact zeros.
    seen_tile = np.zeros_like(last_tile) if window is None else np.maximum(first_pos - window + 1, 0) // KV_TILE
    numbers = last_tile - seen_tile + 1
    item_tile = np.repeat(np.arange(len(tiles)), numbers)
    starts = np.cumsum(numbers) - numbers
    item_round = np.arange(len(item_tile)) - starts[item_tile]
    key_tile = item_round + seen_tile[item_tile]
    blocks_IB = np.zeros((len(item_tile), per_tile), dtype=np.int64)
    for item, (owner, tile) in enumerate(zip(item_tile, key_tile, strict=True)):
        found = tables[tiles[owner][0]][tile * per_tile : (tile + 1) * per_tile]
        blocks_IB[item, : len(found)] = found
        blocks_IB[item, len(found) :] = found[-1]  # hidden, but its own: another's may hold anything
    query_IM = first_pos[item_tile][:, None] + lanes
    key_IK = key_tile[:, None] * KV_TILE + np.arange(KV_TILE)
    hidden = key_IK[:, None, :] > query_IM[:, :, None]
    if window is not None:
        hidden |= key_IK[:, None, :] <= query_IM[:, :, None] - window

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    rounds = []
    for number in range(int(numbers.max())):
        items = np.flatnonzero(item_round == number)
        rounds.append((tensor(item_tile[items]), tensor(items)))
    return TileGroup(
        tensor(rows_QM), tensor(keep_QM), tensor(rows_QM[keep_QM]), tensor(item_tile), tensor(blocks_IB),
        blocks_IB.tolist(), tensor(hidden), rounds,
    )  # fmt: skip


def store(cache: KVCache, layer: int, plan: AttentionPlan, k_TGD: Tensor, v_TGD: Tensor) -> None:
    keys, values = cache.of(layer)
    # What an earlier owner left behind the last position would meet weights of 0; 0 times infinity is no number.
    values[plan.begun_blocks] = 0
    keys[plan.write_blocks_T, :, plan.write_offsets_T] = k_TGD.to(keys.dtype)
    values[plan.write_blocks_T, :, plan.write_offsets_T] = v_TGD.to(values.dtype)


def attend(q_TND: Tensor, cache: KVCache, plan: AttentionPlan, params: AttentionParams, softcap) -> Tensor:
    out_TND = torch.empty_like(q_TND)
    keys, values = cache.of(params.layer)
    scaled_TND = q_TND * params.scale
    for group in plan.groups[params.window]:
        out_TND[group.flat_rows] = _attend_group(scaled_TND, keys, values, group, params, softcap)
    return out_TND


def _attend_group(q_TND: Tensor, keys: Tensor, values: Tensor, group: TileGroup, params: AttentionParams, softcap) -> Tensor:
    """The group's real rows, in the order of `flat_rows`."""
    tiles, height = group.rows_QM.shape
    kv_heads, dim = keys.shape[1], keys.shape[3]
    share = q_TND.shape[1] // kv_heads  # query heads of one key-value head
    rows = height * share
    # Rows of a product: the tile's queries, each with all the heads that share a key-value head.
    q_QGRD = q_TND[group.rows_QM].view(tiles, height, kv_heads, share, dim).transpose(1, 2).reshape(tiles, kv_heads, rows, dim)
    q_IGRD = q_QGRD[group.item_tile_I]
    scores = _product_keys(q_IGRD, keys, group)
    if params.softcap is not None:
        scores = softcap(scores, params.softcap)
    hidden = group.hidden_IMK[:, None, :, None, :]
    scores.view(-1, kv_heads, height, share, KV_TILE).masked_fill_(hidden, float("-inf"))
    peak_IGR = scores.amax(dim=-1)
    peak_QGR = torch.full((tiles, kv_heads, rows), float("-inf"), device=q_TND.device)
    for owners, items in group.rounds:
        peak_QGR[owners] = torch.maximum(peak_QGR[owners], peak_IGR[items])
    peak_QGR.masked_fill_(peak_QGR == float("-inf"), 0.0)  # rows of padding see nothing
    weights = torch.exp(scores - peak_QGR[group.item_tile_I].unsqueeze(-1))
    sums_IGR = halving_sum(weights).squeeze(-1)
    total_QGR = torch.zeros_like(peak_QGR)
    for owners, items in group.rounds:
        total_QGR[owners] += sums_IGR[items]

    def mixed(product) -> Tensor:
        mixed_IGRD = product(weights, values, group)
        mixed_QGRD = torch.zeros_like(q_QGRD)
        for owners, items in group.rounds:
            mixed_QGRD[owners] += mixed_IGRD[items]
        out = mixed_QGRD / total_QGR.unsqueeze(-1)
        out = out.view(tiles, kv_heads, height, share, dim).transpose(1, 2).reshape(tiles, height, kv_heads * share, dim)
        return out[group.keep_QM]

    out = mixed(_product_values)
    return out if out.isfinite().all() else mixed(_product_seen)


def _tiles(cache: Tensor, group: TileGroup) -> Tensor:
    """The items' cache tiles gathered side by side, [items, kv heads, KV_TILE, dim] in fp32."""
    items, per_tile = group.blocks_IB.shape
    _, heads, size, dim = cache.shape
    gathered = cache.index_select(0, group.blocks_IB.reshape(-1))
    if per_tile > 1:
        gathered = gathered.view(items, per_tile, heads, size, dim).transpose(1, 2)
    return gathered.reshape(items, heads, KV_TILE, dim).float()


def _in_place(cache: Tensor, group: TileGroup) -> bool:
    """Whether tiles are read where they lie, one call a tile, instead of being gathered first."""
    tile_bytes = cache.shape[1] * KV_TILE * cache.shape[3] * 4
    is_like_a_tile = cache.shape[2] == KV_TILE and cache.dtype == torch.float32
    return cache.device.type == "cpu" and is_like_a_tile and tile_bytes >= GATHER_BELOW  # elsewhere a call costs more than a copy


def _product_keys(q_IGRD: Tensor, keys: Tensor, group: TileGroup) -> Tensor:
    items, heads, rows, dim = q_IGRD.shape
    if not _in_place(keys, group):
        k = _tiles(keys, group)
        return multiply_each(q_IGRD.reshape(-1, rows, dim), k.view(-1, KV_TILE, dim)).view(items, heads, rows, KV_TILE)
    out = q_IGRD.new_empty(items, heads, rows, KV_TILE)
    for item, (block,) in enumerate(group.blocks):
        torch.bmm(q_IGRD[item], keys[block].transpose(1, 2), out=out[item])
    return out


def _product_values(weights_IGRK: Tensor, values: Tensor, group: TileGroup, clean: bool = False) -> Tensor:
    """`clean`: with 0 in place of what is not finite."""

    def taken(v: Tensor) -> Tensor:
        return v.nan_to_num(0.0, 0.0, 0.0) if clean else v

    items, heads, rows, _ = weights_IGRK.shape
    dim = values.shape[3]
    if not _in_place(values, group):
        v = taken(_tiles(values, group))
        values_BDK = v.view(-1, KV_TILE, dim).transpose(1, 2)
        return multiply_each(weights_IGRK.view(-1, rows, KV_TILE), values_BDK).view(items, heads, rows, dim)
    out = weights_IGRK.new_empty(items, heads, rows, dim)
    for item, (block,) in enumerate(group.blocks):
        torch.bmm(weights_IGRK[item], taken(values[block]), out=out[item])
    return out


def _product_seen(weights_IGRK: Tensor, values: Tensor, group: TileGroup) -> Tensor:
    """The same where some values are not finite: such a value makes a NaN of the rows that see it, and of those alone.

    A hidden one meets a weight of 0, but 0 times NaN or infinity is NaN: a later token's broken value would reach the rows before
    it, and through the prefix cache other requests.
    """
    out = _product_values(weights_IGRK, values, group, clean=True)
    share = weights_IGRK.shape[2] // group.hidden_IMK.shape[1]
    for item, own in enumerate(group.blocks):
        broken_GKD = (~values[own].isfinite()).transpose(0, 1).flatten(1, 2).float()
        seen_RK = (~group.hidden_IMK[item]).repeat_interleave(share, 0).float()
        out[item].masked_fill_(torch.matmul(seen_RK, broken_GKD) > 0, float("nan"))
    return out
