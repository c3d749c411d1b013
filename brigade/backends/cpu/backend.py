"""The contract of `backends/base.py`, answered by the native kernels."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from brigade.backends.base import AttentionParams, Backend, LargestStep, Step
from brigade.backends.cpu.ahead import chain
from brigade.backends.cpu.formats import number_formats
from brigade.backends.cpu.hold import hold as hold_natively
from brigade.backends.cpu.layer import NativeLayer, NativeNorm, fits
from brigade.backends.cpu.library import BrAttention, BrStep, kernels
from brigade.backends.cpu.matrix import ACTIVATIONS, SUMMED, PackedMatrix, pack, pack_norm
from brigade.backends.cpu.model_matrices import matrices_of
from brigade.backends.cpu.native_exchange import NativeExchange
from brigade.backends.cpu.numerics import numerics_id, settle_numerics
from brigade.backends.cpu.packed_size import cut_inside_panels, packed_layouts, packed_sizes
from brigade.backends.cpu.packer import LINEARS, PackedModel, Packer, plain_tensors
from brigade.backends.cpu.quant import PRODUCTS, Quant, skip_list
from brigade.backends.cpu.row_parallel import shared_products
from brigade.backends.cpu.stack import NativeStack
from brigade.backends.cpu.step_size import step_bytes
from brigade.backends.cpu.sums import packed_sums, sums_of_weights
from brigade.backends.cpu.threads import size_pool
from brigade.backends.kv_cache import KVCache
from brigade.backends.number_formats import NumberFormats
from brigade.backends.step_size import summed_products
from brigade.backends.sums import TensorSum
from brigade.backends.weights import Weights, place, take_share
from brigade.batch import Batch
from brigade.config import Activation, ModelConfig, NormKind
from brigade.errors import CheckpointError, ConfigError

MOST_DIM = 512  # of a head; what the attention kernel keeps on its stack


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The kernels' view of a batch, and the array it points into."""

    struct: Any
    array: np.ndarray
    wanted: int  # where the rows are whose logits are asked for
    wanted_count: int


@dataclass(frozen=True, slots=True)
class PackedTable:
    """A word table, and its packed form where the output head is tied to it."""

    table_VH: Tensor
    head: PackedMatrix | None

    @property
    def shape(self) -> torch.Size:
        return self.table_VH.shape


class CpuBackend(Backend):
    name = "cpu"
    quantises = True
    block_sizes = (32, 64)  # a panel of keys is 32 positions, a tile of attention 64

    def __init__(self, device: torch.device | str = "cpu", exact: bool = True, numerics: str | None = None) -> None:
        if torch.device(device).type != "cpu":
            raise ConfigError(f"device is {str(device)!r}; the cpu backend runs on cpu: use --backend reference there")
        if not exact:
            raise ConfigError("exact off has no effect on the cpu backend, whose only way of computing is exact; drop it")
        self.device, self.exact, self.quant = torch.device("cpu"), True, Quant()
        self.dtype: torch.dtype | None = None
        settle_numerics(numerics)
        size_pool()

    @property
    def numerics_id(self) -> str:
        return numerics_id(self.quant, self.dtype)

    def hold(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    @property
    def threads(self) -> int:
        return kernels().br_pool_size()

    def use(self, threads: int | None, cpus: str | None) -> None:
        """Size the pool of threads, and pin it if `cpus` names processors. torch's own threads follow."""
        size_pool(threads, cpus)
        if threads is not None or cpus is not None:
            torch.set_num_threads(self.threads)

    def quantise(self, scheme: str, skip_layers: Iterable[str] = (), num_layers: int = 0) -> None:
        """How matrices are held from the next model on; word table, norms, biases and routers keep their type."""
        self.quant = Quant(scheme, skip_list(skip_layers, num_layers))

    def packed_sizes(self, model: Any, dtype: torch.dtype) -> dict[str, int]:
        return packed_sizes(model, self.quant, dtype)

    def step_bytes(self, model: Any, dtype: torch.dtype, step: LargestStep) -> int:
        return step_bytes(model, packed_layouts(model, self.quant, dtype), step, self.threads)

    def exchanged_bytes(self, model: Any, dtype: torch.dtype) -> int:
        """Rows of int8 also need the greatest number of the whole row."""
        rows = [rows for name, rows, _ in summed_products(model) if self.quant.of(name, _name(dtype)) in SUMMED]
        return super().exchanged_bytes(model, dtype) + 4 * sum(rows)

    def cut_inside_panels(self, model: Any) -> list[str]:
        return cut_inside_panels(model, self.quant)

    def number_formats(self, dtype: torch.dtype) -> NumberFormats:
        return number_formats(self.quant, _name(dtype))

    def cache_dim(self, head_dim: int) -> int:
        return -(-head_dim // 32) * 32

    def hold_tensor(self, tensor: Tensor, dtype: torch.dtype) -> tuple[Tensor, bool]:
        return hold_natively(tensor, dtype)

    def prepare(self, model: Any, weights: Weights | None = None) -> None:
        """Pack every matrix as it is read."""
        check_head(model.config)
        if weights is not None:
            for name in plain_tensors(model):
                place(model, name, take_share(weights, name, model.cuts))
        self._pack(model, Packer(self.quant, weights, cuts=model.cuts, exchange=self.exchange))

    def adopt(self, model: Any, ready: PackedModel) -> None:
        """Prepare a model whose matrices an artifact holds packed, and whose other tensors are in place. What is used is proven
        first."""
        check_head(model.config)
        packer = Packer(self.quant, ready=ready, cuts=model.cuts)
        places = {
            one.name: packer.place(one.name, (one.n, one.k), one.has_bias, one.parameter, one.how) for one in matrices_of(model)
        }
        ready.prove(places, {name: model.cuts.get(name) for name in plain_tensors(model)})
        self._pack(model, packer)
        unused = {name for name in packer.unused if model.held.has(name)}
        if unused:
            raise CheckpointError(f"the artifact holds {min(unused)}, which its architecture does not have; export it again")

    def _pack(self, model: Any, packer: Packer) -> None:
        """A layer that the kernels know whole becomes one call."""
        tables, plain = model.rope_tables(), plain_tensors(model)
        names = {module: name for name, module in model.named_modules()}
        exchange = None if self.exchange.size == 1 else NativeExchange(self.exchange)
        for index, layer in zip(model.held.layers, model.own_layers, strict=True):
            if fits(layer):
                table, last = tables.get(layer.attention.rope), index == len(model.layers) - 1
                model.layers[index] = NativeLayer(layer, f"layers.{index}", packer, table, last, exchange)
        for module in list(model.modules()):
            self._pack_module(module, names.get(module, ""), packer)
            for name, child in module.named_children():
                if type(child).__name__ == "Norm":
                    setattr(module, name, NativeNorm(child))
        if model.embedding is not None:
            word, tied = model.embedding.word, None
            del model.embedding.word
            if model.head is None and model.held.is_last:
                tied = packer("head", word, None, "embedding.word", tree=False)
            model.embedding.word = PackedTable(word.detach(), tied)
        chain([matrix for name, matrix in packer.matrices.items() if "experts" not in name])  # of those a step reads only some
        self.arithmetic = PRODUCTS.get(self.quant.scheme, next(iter(packer.matrices.values())).scheme)
        model.packed = PackedModel(plain, packer.matrices)
        model.at_once = NativeStack.of(model)

    @staticmethod
    def _pack_module(module: Any, name: str, packer: Packer) -> None:
        kind = type(module).__name__
        if kind in LINEARS and isinstance(module.weight, Tensor):
            share = {"share": module.share} if kind == "RowLinear" else {}
            packed = packer(name, module.weight, module.bias, tree=kind == "RowLinear", **share)
            del module.weight
            module.weight, module.bias = packed, None
        elif kind == "ExpertWeights":
            up, down = module.up, module.down
            del module.up, module.down
            module.up = [packer(f"{name}.up.{i}", weight, None, tree=False) for i, weight in enumerate(up)]
            how = {"tree": True, "share": module.share}
            module.down = [packer(f"{name}.down.{i}", weight, None, **how) for i, weight in enumerate(down)]

    def weight_bytes(self, model: Any) -> tuple[int, int]:
        """What a step reads of a prepared model: all layers, and the head."""
        sizes = {name: matrix.nbytes for name, matrix in model.packed.matrices.items()}
        head = sizes.pop("head", 0)
        return sum(sizes.values()), head

    def tensor_sums(self, model: Any, dtype: torch.dtype, weights: Weights | None = None) -> Iterator[TensorSum]:
        """Of the packed matrices, where they lie."""
        if weights is not None:
            return sums_of_weights(model, weights, self.quant, dtype)
        return packed_sums(model, model.packed, dtype)

    def begin_step(self, batch: Batch, cache: KVCache | None, windows: Iterable[int | None]) -> Step:
        assert cache is not None
        kernels().br_wake()
        ids, positions, starts, tables, blocks, rows = [], [], [0], [], [], []
        for span in batch.spans:
            ids.extend(span.token_ids)
            positions.extend(range(span.start, span.end))
            starts.append(len(ids))
            tables.append(len(blocks))
            blocks.extend(span.blocks)
            rows.extend(starts[-2] + row for row in span.rows)
        parts = (positions, starts, tables, blocks, rows)
        array = np.array(sum(parts, []), np.int32)
        at = [array.ctypes.data + 4 * before for before in accumulate(map(len, parts), initial=0)]
        struct = BrStep(
            rows=len(ids), spans=len(tables), block_size=cache.block_size, kv_bf16=cache.keys[0].dtype == torch.bfloat16,
            positions=at[0], span_row=at[1], span_table=at[2], blocks=at[3],
        )  # fmt: skip
        wanted = None if len(rows) == len(ids) else torch.tensor(rows, dtype=torch.int64)
        plan = StepPlan(struct, array, at[4], len(rows))
        tokens_T, positions_T = (torch.from_numpy(np.array(numbers, np.int64)) for numbers in (ids, positions))
        return Step(tokens_T, positions_T, wanted, plan, cache)

    def embed(self, ids_T: Tensor, table_VH: Tensor | PackedTable, onto_TH: Tensor | None = None) -> Tensor:
        table = table_VH.table_VH if isinstance(table_VH, PackedTable) else table_VH
        out_TH = torch.empty(ids_T.shape[0], table.shape[1]) if onto_TH is None else onto_TH
        half = table.dtype == torch.bfloat16
        assert half or table.dtype == torch.float32
        sources = (table.data_ptr(), None) if half else (None, table.data_ptr())
        kernels().br_embed(*sources, table.shape[1], ids_T.data_ptr(), ids_T.shape[0], onto_TH is not None, out_TH.data_ptr())
        return out_TH

    def linear(self, x_TK: Tensor, weight_NK: Any, bias_N: Tensor | None) -> Tensor:
        return _packed(weight_NK, bias_N)(x_TK)

    def tree_linear(self, x_TK: Tensor, weight_NK: Any, bias_N: Tensor | None, share: int = 1) -> Tensor:
        packed = _packed(weight_NK, bias_N, tree=True, share=share)
        return packed(x_TK) if share == 1 else shared_products([(x_TK, packed)], self.exchange)[0]

    def tree_linears(self, pairs: Sequence[tuple[Tensor, Any]], share: int = 1) -> list[Tensor]:
        if share == 1:
            return super().tree_linears(pairs)
        packed = [(x_TK, _packed(weight_NK, None, tree=True, share=share)) for x_TK, weight_NK in pairs]
        return shared_products(packed, self.exchange)

    def norm(
        self, kind: NormKind, x_TH: Tensor, weight_H: Tensor | None, bias_H: Tensor | None, eps: float, offset: float
    ) -> Tensor:
        return pack_norm(kind, x_TH.shape[1], weight_H, bias_H, eps, offset)(x_TH)  # not prepared: packed for this once

    def rotate(self, x_TND: Tensor, cos_TR: Tensor, sin_TR: Tensor, interleaved: bool) -> Tensor:
        out = x_TND.float().clone(memory_format=torch.contiguous_format)
        cos, sin = cos_TR.contiguous(), sin_TR.contiguous()
        rows, heads, dim = out.shape
        kernels().br_rotate(out.data_ptr(), rows, heads, dim, None, cos.data_ptr(), sin.data_ptr(), cos.shape[1], int(interleaved))
        return out

    def activate(self, kind: Activation, x: Tensor) -> Tensor:
        x = x.float().contiguous()
        out = torch.empty_like(x)
        kernels().br_activate(ACTIVATIONS[kind], x.data_ptr(), x.numel(), out.data_ptr())
        return out

    def attention(self, q_TND: Tensor, k_TGD: Tensor, v_TGD: Tensor, params: AttentionParams, step: Step) -> Tensor:
        assert step.cache is not None
        q, k, v = (x.float().contiguous() for x in (q_TND, k_TGD, v_TGD))
        native = BrAttention(
            heads=q.shape[1], kv_heads=k.shape[1], dim=q.shape[2], window=params.window or 0, scale=params.scale,
            softcap=params.softcap or 0.0,
        )  # fmt: skip
        out = torch.empty_like(q)
        kernels().br_attend(
            ctypes.byref(native), ctypes.byref(step.attention.struct), *step.cache.address(params.layer),
            q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr(),
        )  # fmt: skip
        return out

    def softcap(self, x: Tensor, cap: float) -> Tensor:
        out = x.float().clone(memory_format=torch.contiguous_format)
        kernels().br_softcap(out.data_ptr(), out.numel(), cap)
        return out

    def softmax(self, x_TE: Tensor) -> Tensor:
        x_TE = x_TE.float().contiguous()
        out = torch.empty_like(x_TE)
        kernels().br_softmax(x_TE.data_ptr(), x_TE.shape[0], x_TE.shape[1], out.data_ptr())
        return out


def _packed(weight: Any, bias_N: Tensor | None, tree: bool = False, share: int = 1) -> PackedMatrix:
    if isinstance(weight, PackedTable):
        assert weight.head is not None
        return weight.head
    if isinstance(weight, PackedMatrix):
        assert bias_N is None, "a packed matrix has its bias with it"
        return weight
    return pack(weight, bias_N, _own_scheme(weight), tree, share=share)  # not prepared: right, but packed for this once


def check_head(config: ModelConfig) -> None:
    if config.head_dim > MOST_DIM:
        raise ConfigError(f"head_dim is {config.head_dim}; the cpu backend takes {MOST_DIM}: use --backend reference")


def _own_scheme(weight: Tensor) -> str:
    return _name(weight.dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
