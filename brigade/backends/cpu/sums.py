"""The sums of `backends/sums.py` over packed matrices, by the native kernels."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from brigade.backends.cpu.cut import places_of
from brigade.backends.cpu.library import BrKeys, kernels
from brigade.backends.cpu.matrix import PackedMatrix
from brigade.backends.cpu.model_matrices import matrices_of
from brigade.backends.cpu.packer import PackedModel, Packer, cut_of, plain_tensors
from brigade.backends.cpu.quant import Quant
from brigade.backends.sums import SHIFTS, Keys, Place, TensorSum, kind_of, place_of, plain_sum
from brigade.backends.weights import Weights


def packed_sums(model: Any, packed: PackedModel, dtype: torch.dtype) -> Iterator[TensorSum]:
    """Of a prepared model, or of what an artifact holds for it."""
    for name, tensor in packed.tensors.items():
        yield from _plain(model, name, tensor, dtype)
    for name, matrix in packed.matrices.items():
        yield from _matrix(model, name, matrix)


def sums_of_weights(model: Any, weights: Weights, quant: Quant, dtype: torch.dtype) -> Iterator[TensorSum]:
    """Of a whole model that is not prepared: each tensor is read, packed, and dropped before the next."""
    tied = None
    for name in plain_tensors(model):
        tensor = weights.take(name)
        if name == "embedding.word" and model.head is None:
            tied = tensor
        yield from _plain(model, name, tensor, dtype)
    packer = Packer(quant, weights)
    for one in matrices_of(model):
        weight_NK = torch.empty(one.n, one.k, device="meta") if one.parameter is None else tied
        bias_N = torch.empty(one.n, device="meta") if one.has_bias else None
        yield from _matrix(model, one.name, packer(one.name, weight_NK, bias_N, one.parameter, **one.how))
        del packer.matrices[one.name]


def _plain(model: Any, name: str, tensor: Tensor, dtype: torch.dtype) -> Iterator[TensorSum]:
    place = place_of(model, name, tensor.shape[0], model.cuts.get(name))
    if (name == "embedding.word" and not model.held.is_first) or not place.counted.any():
        return  # the last stage holds the word table for the head alone, which is a matrix
    dtype = kind_of(name, dtype)
    whole_words = tensor.dim() == 2 and tensor.dtype == dtype and tensor.shape[1] * dtype.itemsize % 4 == 0
    yield table_sum(name, tensor, place) if whole_words else plain_sum(name, tensor, dtype, place)


def table_sum(name: str, table_NK: Tensor, place: Place) -> TensorSum:
    table_NK = table_NK.detach().contiguous()
    keys, words = Keys(name, str(table_NK.dtype).removeprefix("torch.")), table_NK.shape[1] * table_NK.element_size() // 4
    of_words, of_rows = keys.words(np.arange(words)), place.row_keys(keys)
    low, high = of_words.astype(np.uint32), (of_words >> np.uint64(32)).astype(np.uint32)
    value = kernels().br_sum_rows(
        table_NK.data_ptr(), table_NK.shape[0], words, low.ctypes.data, high.ctypes.data, of_rows.ctypes.data
    )  # fmt: skip
    return TensorSum(name, keys.kind, value)


def _matrix(model: Any, name: str, matrix: PackedMatrix) -> Iterator[TensorSum]:
    """A matrix and its bias."""
    weight = name if name.rpartition(".")[2].isdigit() else f"{name}.weight"  # of experts the number is the last name
    cut = cut_of(model.cuts, name, "embedding.word" if name == "head" and model.head is None else None)
    place = place_of(model, weight, matrix.struct.n, cut)
    if place.counted.any():
        yield TensorSum(weight, matrix.scheme, matrix_sum(matrix, Keys(weight, matrix.scheme), place))
    if matrix.has_bias:
        place = place_of(model, f"{name}.bias", matrix.struct.n, model.cuts.get(f"{name}.bias"))
        if place.counted.any():
            bias_N = torch.from_numpy(matrix.arrays[3][places_of(matrix.layout)])
            yield plain_sum(f"{name}.bias", bias_N, torch.float32, place)


def matrix_sum(matrix: PackedMatrix, keys: Keys, place: Place) -> int:
    layout, per = matrix.layout, keys.per_word
    columns = np.zeros(layout.columns, np.uint64)
    columns[places_of(layout)] = place.row_keys(keys)
    # K in the blocks that a panel has, each filled with zeros, whose keys are of no account.
    length = layout.k // layout.blocks
    blocks_B1 = place.first_k + length * np.arange(layout.blocks)[:, None]
    k_BK = blocks_B1 + np.arange(layout.block_k)
    if (blocks_B1 % per).any():  # a word of the panel is no word of the whole matrix: its numbers are taken one by one
        words = np.concatenate([keys.columns(k_BK[:, at::per]).ravel() for at in range(per)])
        shifts, mask = SHIFTS[keys.kind], (1 << 32 // per) - 1
    else:
        words, shifts, mask = keys.words(k_BK[:, ::per] // per).ravel(), (0,), 0xFFFFFFFF
    shift = np.array(shifts, np.int32)
    # Scales stand behind the whole K. Of one for a whole column the rank with the first of K counts it.
    each, behind = layout.block_k // layout.group, -(-layout.k * layout.share // per)
    groups = behind + place.first_k // length * each + np.arange(layout.blocks * each)
    scales = keys.words(groups) if keys.kind == "int4" else keys.words(np.array([behind])) * np.uint64(place.first_k == 0)
    times = keys.words(1 + groups)
    struct = BrKeys(
        words=words.ctypes.data, shift=shift.ctypes.data, scales=scales.ctypes.data, times=times.ctypes.data,
        columns=columns.ctypes.data, steps=words.size // len(shifts), passes=len(shifts), mask=mask,
    )  # fmt: skip
    return kernels().br_sum(ctypes.byref(matrix.struct), ctypes.byref(struct))
