"""What a model computes with, as one number for each of its tensors. A model's fingerprint is made of these sums.

The sum of a tensor is, modulo 2^64,

    sum over rows r and columns k of   code[r, k] * column_key(k) * row_key(r)

`code` are the bits of a number as it is held: 32 of float32, 16 of bfloat16, 8 of int8, 4 of int4 (in two's complement). A key is a
fixed pseudo-random function of the tensor's name and of the row or column in the *whole* tensor. A vector is one column. The scales
of a quantised matrix are columns behind the last one.

The sum is linear. So every rank adds up what it holds, in any order, and the leader adds the ranks' sums: one model has one set of
sums on every layout.

What a sum shows:

- One changed bit changes it for certain. Along K the codes are taken in words of 32 bits: `column_key(k)` is the odd 64-bit key of
  the word, times the power of two at which the number stands in it. A changed bit is bit b < 32 of a word, so the sum changes by
  2^b times two odd numbers, which is not 0 modulo 2^64.
- Any other change, such as rows or numbers that were exchanged, leaves it as it was by chance only: about 1 in 2^(63 - v), where
  2^v divides all differences of the words. v is a few bits in practice, and 31 at most, where only the highest bits changed.
- It is no defence against somebody who wants two models to have one sum: the keys are public and the sum is linear.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from brigade.backends.weights import Weights, take_share
from brigade.mesh import Cut

# Where in a word of 32 bits the numbers of K stand that follow each other, by the kind of matrix: as the packed matrices have them.
SHIFTS = {
    "float32": (0,), "bfloat16": (0, 16), "int8": (0, 8, 16, 24), "int8-weight": (0, 8, 16, 24), "int4": (0, 16, 8, 24),
    "int4-int8": (0, 8, 16, 24),
}  # fmt: skip
CODES = {torch.float32: (torch.int32, 0xFFFFFFFF), torch.bfloat16: (torch.int16, 0xFFFF)}
CHUNK = 1 << 16  # numbers that are turned into integers at once: so many stay in the cache
STEP, FIRST, SECOND = (np.uint64(x) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


class TensorSum(NamedTuple):
    """What was counted of one tensor. Ranks that hold parts of it say one each; they are to be added modulo 2^64."""

    name: str
    kind: str  # of its numbers: a name of `SHIFTS`
    value: int


def _mixed(counters: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64."""
    for shift, factor in ((30, FIRST), (27, SECOND)):
        counters = (counters ^ (counters >> np.uint64(shift))) * factor
    return counters ^ (counters >> np.uint64(31))


@dataclass(frozen=True)
class Keys:
    """Of the tensor of this name, whose numbers are of this kind. All keys are unsigned integers of 64 bits."""

    name: str
    kind: str

    @cached_property
    def _seeds(self) -> np.ndarray:
        return np.frombuffer(hashlib.sha256(self.name.encode()).digest(), "<u8")

    def _odd(self, seed: int, numbers: np.ndarray) -> np.ndarray:
        return _mixed(numbers.astype(np.uint64) * STEP + self._seeds[seed]) | np.uint64(1)

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        return self._odd(0, numbers)

    def words(self, numbers: np.ndarray) -> np.ndarray:
        return self._odd(1, numbers)

    @property
    def per_word(self) -> int:
        return len(SHIFTS[self.kind])

    def columns(self, numbers: np.ndarray) -> np.ndarray:
        shifts = np.array(SHIFTS[self.kind], np.uint64)
        return self.words(numbers // self.per_word) << shifts[numbers % self.per_word]


@dataclass(frozen=True)
class Place:
    """Where in a whole tensor that lies which a rank holds. `counted`: of its rows those that no rank before it holds alike."""

    rows: np.ndarray
    counted: np.ndarray
    first_k: int = 0

    def row_keys(self, keys: Keys) -> np.ndarray:
        return np.where(self.counted, keys.rows(self.rows), np.uint64(0))


def place_of(model: Any, name: str, count: int, cut: Cut | None) -> Place:
    """Of the parameter `name`, of which `count` rows are here. What all ranks of a stage hold alike is counted by the first."""
    held = model.held
    if cut is None or cut.axis != -2:
        first_k = 0 if cut is None else cut.runs[0][0]
        return Place(np.arange(count), np.full(count, cut is not None or held.tp_rank == 0), first_k)
    rows = np.concatenate([np.arange(first, last) for first, last in cut.runs])
    counted = np.ones(count, bool)
    if ".attention.qkv." in name and held.tp_rank > 0:  # more ranks than key-value heads: several hold the same
        before = replace(held, tp_rank=held.tp_rank - 1)
        counted[cut.runs[0][1] - cut.runs[0][0] :] = before.kv_heads(model.config) != held.kv_heads(model.config)
    return Place(rows, counted)


def names_of(model: Any, parameter: str) -> list[str]:
    """As what a parameter is counted. The word table is looked up in the first stage, and in the last one it may be the head."""
    if parameter != "embedding.word":
        return [parameter]
    tied = model.head is None and model.held.is_last
    return [*(["embedding.word"] if model.held.is_first else []), *(["head.weight"] if tied else [])]


def kind_of(name: str, dtype: torch.dtype) -> torch.dtype:
    """A bias is added in float32, whatever it was rounded to."""
    return torch.float32 if name.endswith("bias") else dtype


def plain_sum(name: str, numbers: Tensor, dtype: torch.dtype, place: Place) -> TensorSum:
    """Of a tensor that is not packed; its numbers are of `dtype`, and may be held in a wider type. This is what the native sums are
    held against."""
    keys = Keys(name, str(dtype).removeprefix("torch."))
    table_NK = numbers.detach() if numbers.dim() == 2 else numbers.detach().unsqueeze(1)
    rows_N, columns_K = (
        torch.from_numpy(found.view(np.int64)).to(table_NK.device)  # whose products and sums are those of unsigned integers
        for found in (place.row_keys(keys), keys.columns(place.first_k + np.arange(table_NK.shape[1])))
    )
    code, mask = CODES[dtype]
    total, step = 0, max(1, CHUNK // table_NK.shape[1])
    for first in range(0, table_NK.shape[0], step):
        codes_NK = table_NK[first : first + step].to(dtype).contiguous().view(code).long() & mask
        total += int(((codes_NK * columns_K).sum(1) * rows_N[first : first + step]).sum())
    return TensorSum(name, keys.kind, total % (1 << 64))


def plain_sums(model: Any, dtype: torch.dtype, weights: Weights | None = None) -> Iterator[TensorSum]:
    """Of a model that holds every parameter as it was read. `weights`: it holds none yet, and each is read and dropped."""
    cuts: Mapping[str, Cut] = model.cuts
    for name, parameter in list(model.named_parameters()):
        stacked = parameter.dim() == 3  # all experts' matrices
        place = place_of(model, name, parameter.shape[1 if stacked else 0], cuts.get(name))
        counted_as = names_of(model, name)
        if not counted_as or not place.counted.any():
            continue
        if not stacked:
            numbers = parameter if weights is None else take_share(weights, name, cuts)
            yield from (plain_sum(counted, numbers, kind_of(name, dtype), place) for counted in counted_as)
            continue
        for index in range(parameter.shape[0]):
            numbers = parameter[index] if weights is None else weights.take_part(name, index)
            yield plain_sum(f"{name}.{index}", numbers, dtype, place)
