"""The reference backend: plain torch in float32, on one device, with the row rule proven at start.

Weights given in bfloat16 are held as float32 numbers of the same value, and all arithmetic is float32: no product of stock
torch keeps its rows bit-identical in bfloat16 on every processor, and rounding G partial sums would cost accuracy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from brigade.backends.base import AttentionParams, Backend, G, Step
from brigade.backends.exact_math import ACTIVATIONS, halving_sum, pair_tree, tree_width
from brigade.backends.kv_cache import KVCache
from brigade.backends.number_formats import NumberFormats
from brigade.backends.reference.attention import KV_TILE, attend, plan_attention, store
from brigade.backends.reference.matmul import DirectMatmul, TiledMatmul, choose_matmul
from brigade.backends.reference.probe import Product, first_broken, operations
from brigade.backends.reference.strict import ask_for_strict_order, computed_by
from brigade.batch import Batch
from brigade.config import Activation, ModelConfig, NormKind
from brigade.errors import ConfigError


class ReferenceBackend(Backend):
    name = "reference"
    block_sizes = (8, 16, 32, 64)  # a key tile is a whole number of cache blocks

    def __init__(self, device: torch.device | str = "cpu", exact: bool = True) -> None:
        self.device, self.exact = torch.device(device), exact
        ask_for_strict_order()
        self.matmul = choose_matmul(self.device) if exact else DirectMatmul()
        self._proven: set[tuple[ModelConfig, int]] = set()  # models, and over how many ranks, that count on this matmul's bits

    @property
    def numerics_id(self) -> str:
        """With the library that computes, and what it chose its code by: another version or processor may sum in another order."""
        order = self.matmul.name if self.exact else "unordered"
        return f"reference-3/{self.device.type}/float32/{order}/G{G}/{computed_by(self.device)}"

    def probe(self, config: ModelConfig, tp: int = 1) -> None:
        if not self.exact or (config, tp) in self._proven:
            return
        wanted = operations(config, tp)
        broken = first_broken(self, self.matmul.name, wanted)
        if isinstance(broken, Product) and not self._proven and isinstance(self.matmul, DirectMatmul):
            self.matmul = TiledMatmul()
            broken = first_broken(self, self.matmul.name, wanted)
        if broken is not None:
            raise ConfigError(
                f"with torch {torch.__version__} on {self.device}, {broken} change with the number of rows, threads or ranks; "
                "results would depend on the batch or layout. Use --backend cpu, or --exact off to accept that"
            )
        self._proven.add((config, tp))

    def held_dtype(self, dtype: torch.dtype) -> torch.dtype:
        return torch.float32

    def packed_sizes(self, model: Any, dtype: torch.dtype) -> dict[str, int]:
        return super().packed_sizes(model, torch.float32)

    def number_formats(self, dtype: torch.dtype) -> NumberFormats:
        name = str(dtype).removeprefix("torch.")
        return NumberFormats(name if dtype == torch.float32 else f"{name}, held as float32", "float32", name)

    def begin_step(self, batch: Batch, cache: KVCache | None, windows: Iterable[int | None]) -> Step:
        assert cache is not None and KV_TILE % cache.block_size == 0
        token_ids = torch.tensor([i for span in batch.spans for i in span.token_ids], device=self.device)
        positions = torch.tensor([p for span in batch.spans for p in range(span.start, span.end)], device=self.device)
        plan = plan_attention(batch, positions, cache.block_size, windows, self.device)
        return Step(token_ids, positions, self._logit_rows(batch), plan, cache)

    def _logit_rows(self, batch: Batch) -> Tensor | None:
        rows, first = [], 0
        for span in batch.spans:
            rows.extend(first + row for row in span.rows)
            first += len(span.token_ids)
        return None if len(rows) == first else torch.tensor(rows, dtype=torch.int64, device=self.device)

    def embed(self, ids_T: Tensor, table_VH: Tensor, onto_TH: Tensor | None = None) -> Tensor:
        return table_VH[ids_T] if onto_TH is None else onto_TH + table_VH[ids_T]

    def linear(self, x_TK: Tensor, weight_NK: Tensor, bias_N: Tensor | None) -> Tensor:
        out = self.matmul(x_TK, weight_NK)
        return out if bias_N is None else out + bias_N

    def tree_linear(self, x_TK: Tensor, weight_NK: Tensor, bias_N: Tensor | None, share: int = 1) -> Tensor:
        out = self._branch(x_TK, weight_NK, share)
        if share > 1:
            out = self.exchange.tree(out.contiguous())
        return out if bias_N is None else out + bias_N

    def tree_linears(self, pairs: Sequence[tuple[Tensor, Tensor]], share: int = 1) -> list[Tensor]:
        branches = [self._branch(x_TK, weight_NK, share) for x_TK, weight_NK in pairs]
        if share == 1 or not branches:
            return branches
        return list(self.exchange.tree(torch.cat(branches)).split([branch.shape[0] for branch in branches]))

    def _branch(self, x_TK: Tensor, weight_NK: Tensor, share: int) -> Tensor:
        """The sum of the blocks that are here: the whole tree, or the one branch of it that this rank's K is."""
        width = tree_width(x_TK.shape[1] * share, G) // share
        assert width > 0, f"{share} ranks share a K of {x_TK.shape[1] * share}, which has fewer blocks"
        products = zip(x_TK.chunk(width, 1), weight_NK.chunk(width, 1), strict=True)
        return pair_tree([self.matmul(x, weight) for x, weight in products])

    def norm(
        self, kind: NormKind, x_TH: Tensor, weight_H: Tensor | None, bias_H: Tensor | None, eps: float, offset: float
    ) -> Tensor:
        if kind == "layernorm":
            x_TH = x_TH - halving_sum(x_TH) / x_TH.shape[-1]
        mean_square = halving_sum(x_TH * x_TH) / x_TH.shape[-1]
        x_TH = x_TH / torch.sqrt(mean_square + eps)
        if weight_H is not None:
            x_TH = x_TH * (weight_H + offset if offset else weight_H)
        return x_TH if bias_H is None else x_TH + bias_H

    def rotate(self, x_TND: Tensor, cos_TR: Tensor, sin_TR: Tensor, interleaved: bool) -> Tensor:
        half = cos_TR.shape[-1]
        turned, rest = x_TND[..., : 2 * half], x_TND[..., 2 * half :]
        cos, sin = cos_TR.unsqueeze(1), sin_TR.unsqueeze(1)
        if interleaved:
            a, b = turned[..., ::2], turned[..., 1::2]
            turned = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
        else:
            a, b = turned[..., :half], turned[..., half:]
            turned = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
        return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned

    def activate(self, kind: Activation, x: Tensor) -> Tensor:
        return ACTIVATIONS[kind](x)

    def attention(self, q_TND: Tensor, k_TGD: Tensor, v_TGD: Tensor, params: AttentionParams, step: Step) -> Tensor:
        assert step.cache is not None
        store(step.cache, params.layer, step.attention, k_TGD, v_TGD)
        return attend(q_TND, step.cache, step.attention, params, self.softcap)

    def softcap(self, x: Tensor, cap: float) -> Tensor:
        return torch.tanh(x / cap) * cap - (x - x)  # NaN for an infinity, which would look like any large number afterwards

    def softmax(self, x_TE: Tensor) -> Tensor:
        weights = torch.exp(x_TE.float() - x_TE.float().amax(dim=-1, keepdim=True))
        return weights / halving_sum(weights)
