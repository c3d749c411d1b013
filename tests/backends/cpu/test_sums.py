"""The native sums are those of the numbers: of every kind of packed matrix, of any size, whole or cut, on every instruction set."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from brigade.backends.cpu.library import choose_path, find_kernels

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

from brigade.backends.cpu.cut import cut_matrix
from brigade.backends.cpu.matrix import KINDS, PackedMatrix, pack
from brigade.backends.cpu.sums import matrix_sum, table_sum
from brigade.backends.cpu.threads import size_pool
from brigade.backends.sums import Keys, Place, plain_sum
from brigade.mesh import Cut
from tests.backends.cpu.paths import PATHS

LINE = 64


def place(rows, first_k: int = 0) -> Place:
    rows = np.arange(rows) if isinstance(rows, int) else np.array(rows)
    return Place(rows, np.ones(rows.size, bool), first_k)


def source_columns(matrix: PackedMatrix) -> np.ndarray:
    """Of every row of the matrix, where its column stands: gate and up are interleaved by 16."""
    n, gated = matrix.layout.n, matrix.layout.gated
    half = n // 2
    return np.array([r if not gated else r % half // 16 * 32 + r % half % 16 + 16 * (r >= half) for r in range(n)])


def expected(matrix: PackedMatrix, keys: Keys) -> int:
    """From the numbers that `unpack` gives, and scales read off the arrays as `docs/cpu_backend.md` says that they lie."""
    layout, kind = matrix.layout, matrix.scheme
    weight, columns = matrix.unpack().numpy(), source_columns(matrix)
    rows = keys.rows(np.arange(layout.n))
    behind = -(-layout.k // keys.per_word)
    if kind == "float32":
        codes, scales = weight.view(np.uint32).astype(np.uint64), None
    elif kind == "bfloat16":
        codes, scales = (weight.view(np.uint32) >> 16).astype(np.uint64), None
    else:
        length, each = layout.k // layout.blocks, layout.block_k // layout.group
        group_of = np.array([k // length * each + k % length // layout.group for k in range(layout.k)])
        data, scale = matrix.arrays[0], matrix.arrays[1]
        if kind == "int4":
            scales = scale.reshape(layout.columns // 32, -1, 32).transpose(0, 2, 1).reshape(layout.columns, -1)[columns]
            unit = scales[:, group_of]
        elif kind == "int4-int8":
            panels = data.reshape(layout.columns // 32, layout.blocks * each, -1)
            times = (
                np.ascontiguousarray(panels[:, :, :LINE]).view(np.uint16).transpose(0, 2, 1).reshape(layout.columns, -1)[columns]
            )
            unit = scale[columns][:, None] * times[:, group_of]
            scales = np.concatenate([scale[columns][:, None].view(np.uint32), times.astype(np.uint32)], 1)
        else:
            scales = scale[columns][:, None]
            unit = np.broadcast_to(scales, weight.shape)
        integers = np.where(unit > 0, weight / np.where(unit > 0, unit, 1), 0).round().astype(np.int64)
        codes = (integers & (15 if kind.startswith("int4") else 255)).astype(np.uint64)
    total = int(((codes * keys.columns(np.arange(layout.k))).sum(1, dtype=np.uint64) * rows).sum(dtype=np.uint64))
    if scales is not None:
        bits = np.ascontiguousarray(scales).view(np.uint32).astype(np.uint64)
        of_scales = keys.words(behind + np.arange(bits.shape[1]))
        total += int(((bits * of_scales).sum(1, dtype=np.uint64) * rows).sum(dtype=np.uint64))
    return total % 2**64


def made(n: int, k: int, kind: str, seed: int = 0, **how) -> PackedMatrix:
    weight = torch.randn(n, k, generator=torch.Generator().manual_seed(seed))
    weight[n // 2] = 0  # a column of zeros has the scale 0
    return pack(weight, None, kind, **how)


@pytest.fixture(params=PATHS)
def path(request):
    choose_path(request.param)
    yield request.param
    choose_path("")


@pytest.mark.parametrize("kind", KINDS)
def test_of_every_kind_on_every_path_and_with_threads(kind: str, path: str) -> None:
    for n, k, tree, gated in ((96, 256, False, False), (70, 512, True, False), (52, 200, False, True), (64, 24, True, False)):
        matrix = made(n, k, kind, tree=tree, gated=gated, activation="silu" if gated else None, group=32)
        keys = Keys("layers.0.mlp.up.weight", kind)
        wanted = expected(matrix, keys)
        assert matrix_sum(matrix, keys, place(n)) == wanted, (n, k, tree, gated)
        size_pool(threads=2)
        assert matrix_sum(matrix, keys, place(n)) == wanted
        size_pool(threads=1)


@given(
    kind=st.sampled_from(list(KINDS)), half=st.integers(1, 60), k=st.integers(1, 300), tree=st.booleans(), gated=st.booleans(),
    group=st.sampled_from([32, 64, 128]),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_of_any_size(kind: str, half: int, k: int, tree: bool, gated: bool, group: int) -> None:
    n = 2 * half if gated else half
    matrix = made(n, k, kind, tree=tree, gated=gated, activation="silu" if gated else None, group=group)
    assert matrix_sum(matrix, Keys("a", kind), place(n)) == expected(matrix, Keys("a", kind))


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_an_unquantised_matrix_has_the_sum_of_its_plain_tensor(kind: str) -> None:
    weight = torch.randn(50, 72).to(getattr(torch, kind))
    matrix = pack(weight, None, kind, tree=True)
    assert matrix_sum(matrix, Keys("a", kind), place(50)) == plain_sum("a", weight, weight.dtype, place(50)).value


@given(kind=st.sampled_from(list(KINDS)), n=st.integers(1, 70), block=st.integers(1, 90), share=st.sampled_from([2, 4, 8]))
@settings(max_examples=60, deadline=None)
def test_parts_along_k_add_up_to_the_whole(kind: str, n: int, block: int, share: int) -> None:
    """A block of any length: a word of a rank need be no word of the whole."""
    whole, each, keys = made(n, 8 * block, kind, tree=True, group=32), 8 * block // share, Keys("a", kind)
    parts = [cut_matrix(whole, Cut(-1, ((at * each, (at + 1) * each),))) for at in range(share)]
    found = [matrix_sum(part, keys, place(n, at * each)) for at, part in enumerate(parts)]
    assert sum(found) % 2**64 == matrix_sum(whole, keys, place(n))


@given(kind=st.sampled_from(list(KINDS)), n=st.integers(2, 90), gated=st.booleans(), data=st.data())
@settings(max_examples=60, deadline=None)
def test_parts_by_outputs_add_up_to_the_whole(kind: str, n: int, gated: bool, data) -> None:
    border = data.draw(st.integers(1, n - 1))
    whole, keys = (
        made(2 * n if gated else n, 40, kind, tree=False, gated=gated, activation="silu" if gated else None),
        Keys("a", kind),
    )
    total = 0
    for first, last in ((0, border), (border, n)):
        runs = ((first, last), (n + first, n + last)) if gated else ((first, last),)
        rows = np.concatenate([np.arange(*run) for run in runs])
        total += matrix_sum(cut_matrix(whole, Cut(-2, runs)), keys, place(rows))
    assert total % 2**64 == matrix_sum(whole, keys, place(2 * n if gated else n))


@pytest.mark.parametrize("kind", KINDS)
def test_every_bit_of_the_numbers_has_a_sum_of_its_own(kind: str) -> None:
    """Where they lie packed, beside columns of filling, which are not counted."""
    matrix, keys = made(2, 8, kind, tree=False, group=32), Keys("a", kind)
    found, data = {matrix_sum(matrix, keys, place(2))}, matrix.arrays[0]
    counted = 0
    for byte in range(data.size):
        data[byte] ^= 255
        is_filling = matrix_sum(matrix, keys, place(2)) in found
        data[byte] ^= 255
        for bit in range(0 if is_filling else 8):
            data[byte] ^= 1 << bit
            value = matrix_sum(matrix, keys, place(2))
            data[byte] ^= 1 << bit
            counted += value not in found
            found.add(value)
    bits = {"float32": 32, "bfloat16": 16, "int4": 4, "int4-int8": 4}.get(kind, 8)
    assert counted >= 2 * 8 * bits + 2 * 16 * (kind == "int4-int8"), "of both outputs each bit, and each has a sum of its own"


def test_rows_that_are_not_counted_add_nothing() -> None:
    matrix, keys = made(40, 64, "int8", tree=False), Keys("a", "int8")
    first = matrix_sum(matrix, keys, Place(np.arange(40), np.arange(40) < 13))
    rest = matrix_sum(matrix, keys, Place(np.arange(40), np.arange(40) >= 13))
    assert (first + rest) % 2**64 == matrix_sum(matrix, keys, place(40)) and first


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tables(dtype: torch.dtype, path: str) -> None:
    for rows, width in ((1, 2), (65, 8), (130, 30)):
        table, at = torch.randn(rows, width).to(dtype), place(np.arange(rows) + 7)
        assert table_sum("embedding.word", table, at) == plain_sum("embedding.word", table, dtype, at)
