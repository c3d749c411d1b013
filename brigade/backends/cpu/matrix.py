"""A weight matrix as the kernels want it: panels of 32 outputs, K in the reduction tree's blocks."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from brigade.backends.base import G
from brigade.backends.cpu.library import BrAhead, BrMatrix, BrNorm, kernels
from brigade.backends.exact_math import tree_width
from brigade.backends.huge_pages import Arena

KINDS = {"float32": 0, "bfloat16": 1, "int8": 2, "int8-weight": 3, "int4": 4, "int4-int8": 5}
ACTIVATIONS = {None: 0, "gelu": 1, "gelu_tanh": 2, "relu": 3, "silu": 4}
ARRAYS = {"data": np.uint8, "scale": np.float32, "colsum": np.int32, "bias": np.float32}
FORMAT = 1  # of the packed bytes, the same for all instruction sets; another number once csrc/fill.cpp places anything elsewhere
GROUP = 128
SUMMED = ("int8", "int4-int8")  # whose left operand is int8, and whose columns' sums are kept
SPANNING = ("int8", "int8-weight", "int4-int8")  # schemes with one scale for a whole column
TILE_K = {"float32": 16, "bfloat16": 32, "int8": 64, "int8-weight": 32, "int4": 32, "int4-int8": 64}


def aligned(count: int, dtype: type) -> np.ndarray:
    """Zeros that begin on a cache line."""
    size = np.dtype(dtype).itemsize
    raw = np.zeros(count * size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + count * size].view(dtype)


@dataclass(frozen=True)
class Panels:
    """Panels of a part of a matrix in an array of the whole one, where they lie: up to three runs of them, each [panels, elements],
    and from panel to panel `stride` bytes."""

    runs: tuple[np.ndarray, ...]
    stride: int

    @property
    def nbytes(self) -> int:
        return sum(run.nbytes for run in self.runs)

    @property
    def dtype(self) -> np.dtype:
        return self.runs[0].dtype

    def copied(self) -> np.ndarray:
        return np.concatenate(self.runs).reshape(-1)

    def tell(self, struct: ctypes.Structure) -> None:
        """Where the second and the third run begin."""
        begun, names = 0, (("second", "to_second"), ("third", "to_third"))
        for (before, after), (begins, left_out) in zip(pairwise(self.runs), names, strict=False):
            begun += len(before)
            setattr(struct, begins, begun)
            setattr(struct, left_out, (after.ctypes.data - before.ctypes.data) // self.stride - len(before))


Array = np.ndarray | Panels


def address(array: Array | None) -> int | None:
    if array is None:
        return None
    return array.runs[0].ctypes.data if isinstance(array, Panels) else array.ctypes.data


@dataclass(frozen=True)
class Layout:
    """What a packed matrix is. `tree`: K is summed as the tree of G blocks. `gated`: rows are [gate; up], interleaved by 16,
    and the product is act(gate) * up. `share`: `k` is one of so many equal parts of the whole K, which is cut between two of
    the tree's blocks; a block is what it is in the whole matrix, and the rest of the tree is other ranks'."""

    scheme: str
    n: int
    k: int
    tree: bool = False
    gated: bool = False
    activation: str | None = None
    group: int = GROUP  # of K that share a scale; of 4 bits alone
    share: int = 1

    def __post_init__(self) -> None:
        assert self.share == 1 or (self.tree and tree_width(self.k * self.share, G) % self.share == 0), (
            f"K of {self.k * self.share} has no whole blocks for each of {self.share} ranks"
        )

    @property
    def blocks(self) -> int:
        return tree_width(self.k * self.share, G) // self.share if self.tree else 1

    @property
    def block_k(self) -> int:
        step = max(TILE_K[self.scheme], self.group if self.scheme.startswith("int4") else 1)
        return -(-(self.k // self.blocks) // step) * step

    @property
    def groups(self) -> int:
        return self.blocks * self.block_k // self.group

    @property
    def columns(self) -> int:
        """Outputs, filled up to whole panels."""
        return -(-(self.n // 2) // 16) * 32 if self.gated else -(-self.n // 32) * 32

    def struct(self) -> ctypes.Structure:
        made = BrMatrix(
            kind=KINDS[self.scheme], n=self.n, k=self.k, blocks=self.blocks, block_k=self.block_k, group=self.group,
            gated=self.gated, activation=ACTIVATIONS[self.activation],
        )  # fmt: skip
        kernels().br_lay(ctypes.byref(made))
        return made

    def counts(self) -> tuple[int, int, int, int]:
        """Elements of each of `ARRAYS`, were it there."""
        data, scale = ctypes.c_int64(), ctypes.c_int64()
        struct = self.struct()
        kernels().br_pack_size(ctypes.byref(struct), ctypes.byref(data), ctypes.byref(scale))
        return data.value, scale.value, self.columns if self.scheme in SUMMED else 0, self.columns


@dataclass(frozen=True)
class PackedMatrix:
    """Keeps the arrays alive that `struct` points into."""

    struct: ctypes.Structure
    layout: Layout
    arrays: tuple[Array | None, ...]  # as `ARRAYS` names them
    ahead: BrAhead  # what is read after it, once somebody knows

    @classmethod
    def over(cls, layout: Layout, arrays: tuple[Array | None, ...]) -> PackedMatrix:
        """A matrix whose packed arrays are there already, wherever they lie."""
        struct = layout.struct()
        struct.data, struct.scale, struct.colsum, struct.bias = map(address, arrays)
        data, scale = arrays[:2]
        if isinstance(data, Panels):
            struct.panel_stride = data.stride
            data.tell(struct)
        if isinstance(scale, Panels):
            struct.scale_stride = scale.stride // scale.dtype.itemsize
        ahead = BrAhead()
        struct.ahead = ctypes.addressof(ahead)
        return cls(struct, layout, arrays, ahead)

    @property
    def scheme(self) -> str:
        return self.layout.scheme

    @property
    def shape(self) -> tuple[int, int]:
        return self.struct.n, self.struct.k

    @property
    def has_bias(self) -> bool:
        return self.arrays[3] is not None

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays if array is not None)

    @property
    def runs(self) -> list[tuple[int, int, int, int]]:
        """Of `data`: where runs of bytes begin, how long each is, how far apart they are, and how many."""
        data = self.arrays[0]
        assert data is not None
        if not isinstance(data, Panels):
            return [(data.ctypes.data, data.nbytes, data.nbytes, 1)]
        return [(run.ctypes.data, run[0].nbytes, data.stride, len(run)) for run in data.runs]

    def __call__(self, x_TK: Tensor) -> Tensor:
        assert x_TK.shape[1] == self.struct.k, f"{tuple(x_TK.shape)} times {self.shape}"
        x_TK = x_TK.float().contiguous()
        out_TN = torch.empty(x_TK.shape[0], self.struct.n)
        kernels().br_linear(ctypes.byref(self.struct), x_TK.data_ptr(), x_TK.shape[0], out_TN.data_ptr())
        return out_TN

    def unpack(self) -> Tensor:
        """The numbers that the kernels compute with, [N, K]."""
        weight_NK = torch.empty(self.struct.n, self.struct.k)
        kernels().br_unpack(ctypes.byref(self.struct), weight_NK.data_ptr())
        return weight_NK

    def codes(self) -> tuple[Tensor, Tensor]:
        """A quantised matrix as integers [N, K] and what they are multiplied with, [N, 1] or [N, groups of K]."""
        how, scale = self.layout, self.arrays[1]
        assert isinstance(scale, np.ndarray) and not how.gated and how.blocks == 1
        panels = scale.reshape(how.columns // 32, -1, 32) if how.scheme == "int4" else scale.reshape(-1, 1, 32)
        whole_NG = torch.from_numpy(np.ascontiguousarray(panels.transpose(0, 2, 1))).view(how.columns, -1)[: how.n]
        groups = -(-how.k // how.group) if how.scheme == "int4" else 1
        whole_NG = whole_NG[:, :groups].clone()
        each_NK = whole_NG.repeat_interleave(how.group if how.scheme == "int4" else how.k, 1)[:, : how.k]
        codes_NK = torch.where(each_NK > 0, self.unpack() / each_NK, 0.0).round().to(torch.int8)
        return codes_NK, whole_NG


def pack(
    weight_NK: Tensor, bias_N: Tensor | None, scheme: str, tree: bool, gated: bool = False, activation: str | None = None,
    group: int = GROUP, share: int = 1, arena: Arena | None = None, maximum: Callable[[Tensor], Tensor] | None = None,
) -> PackedMatrix:  # fmt: skip
    """`arena`: where the arrays come from, for whoever packs many. `maximum`: where these are the columns of one rank of several,
    the greatest of all ranks' numbers, element by element: a scale that spans a column is made from them."""
    layout = Layout(scheme, *weight_NK.shape, tree=tree, gated=gated, activation=activation, group=group, share=share)
    data, scale, colsum = empty_arrays(layout, arena)
    bias = None if bias_N is None else _pad_bias(bias_N.detach().float().numpy(), layout.columns, gated)
    weight = weight_NK.detach().contiguous()
    is_half = weight.dtype == torch.bfloat16
    weight = weight if is_half else weight.float()
    struct, most, best = layout.struct(), None, None
    if maximum is not None and scheme in SPANNING:
        most = np.empty(layout.columns, np.float32)
        best = np.empty(layout.columns * layout.groups, np.float32) if scheme == "int4-int8" else None
        kernels().br_column_most(ctypes.byref(struct), weight.data_ptr(), is_half, address(most), address(best))
        most = maximum(torch.from_numpy(most)).numpy()
    kernels().br_pack(
        ctypes.byref(struct),
        weight.data_ptr(),
        is_half,
        address(data),
        address(scale),
        address(colsum),
        address(most),
        address(best),
    )
    return PackedMatrix.over(layout, (data, scale, colsum, bias))


def empty_arrays(layout: Layout, arena: Arena | None = None) -> list[np.ndarray | None]:
    """Room for all of `ARRAYS` but the bias."""
    take = aligned if arena is None else arena.zeros
    sizes, kinds = layout.counts(), list(ARRAYS.values())
    return [take(sizes[i], kinds[i]) if sizes[i] else None for i in range(3)]


def _pad_bias(bias: np.ndarray, columns: int, gated: bool) -> np.ndarray:
    out = aligned(columns, np.float32)
    if not gated:
        out[: bias.size] = bias
        return out
    half = bias.size // 2
    for number, part in enumerate((bias[:half], bias[half:])):  # 16 of the gate, then the 16 of up that belong to them
        lanes = np.zeros(columns // 2, np.float32)
        lanes[:half] = part
        out.reshape(-1, 2, 16)[:, number] = lanes.reshape(-1, 16)
    return out


@dataclass(frozen=True)
class PackedNorm:
    struct: ctypes.Structure
    arrays: tuple[np.ndarray | None, ...]

    def __call__(self, x_TH: Tensor) -> Tensor:
        x_TH = x_TH.float().contiguous()
        out_TH = torch.empty_like(x_TH)
        kernels().br_norm(ctypes.byref(self.struct), x_TH.data_ptr(), x_TH.shape[0], out_TH.data_ptr())
        return out_TH


def pack_norm(kind: str, size: int, weight: Tensor | None, bias: Tensor | None, eps: float, offset: float) -> PackedNorm:
    arrays = []
    for values, plus in ((weight, offset), (bias, 0.0)):
        array = None
        if values is not None:
            array = aligned(size, np.float32)
            array[:] = (values.detach().float() + plus).numpy()
        arrays.append(array)
    struct = BrNorm(kind=int(kind == "layernorm"), size=size, eps=eps, weight=address(arrays[0]), bias=address(arrays[1]))
    return PackedNorm(struct, tuple(arrays))
