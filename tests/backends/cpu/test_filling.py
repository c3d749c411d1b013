"""Filling panels: every number lands where the kernels look for it, rounded once, whatever the source is held in."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from brigade.backends.cpu.library import find_kernels

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

from brigade.backends.cpu.matrix import KINDS, PackedMatrix, pack

# Outputs and K: one of each, no whole panel, K beyond what is turned at once, blocks of the tree that no tile divides.
SIZES = [(1, 1), (33, 7), (64, 512), (90, 560), (34, 1040), (48, 8 * 131)]


def drawn(n: int, k: int) -> Tensor:
    weight = torch.randn(n, k, generator=torch.Generator().manual_seed(n + k)) * 0.02
    weight[:, 0] *= 50  # one that the others' scale must be made for
    weight[-1] = 0
    return weight.bfloat16()


def raw(matrix: PackedMatrix) -> list[bytes | None]:
    return [None if array is None else array.tobytes() for array in matrix.arrays]


@pytest.mark.parametrize("tree", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", KINDS)
def test_a_bfloat16_source_is_packed_as_its_float32_copy(scheme: str, size: tuple[int, int], tree: bool) -> None:
    weight, gated = drawn(*size), size[0] % 2 == 0
    how = {"tree": tree, "gated": gated, "activation": "silu" if gated else None}
    assert raw(pack(weight, None, scheme, **how)) == raw(pack(weight.float(), None, scheme, **how))


@pytest.mark.parametrize("tree", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_numbers_are_kept_or_rounded_once(size: tuple[int, int], tree: bool) -> None:
    weight = torch.randn(*size, generator=torch.Generator().manual_seed(3))
    assert torch.equal(pack(weight, None, "float32", tree=tree).unpack(), weight)
    assert torch.equal(pack(weight, None, "bfloat16", tree=tree).unpack(), weight.bfloat16().float())
    scale = weight.abs().amax(1, keepdim=True) / 127
    codes = (weight / scale).round().clamp(-127, 127)
    for scheme in ("int8", "int8-weight"):
        packed = pack(weight, None, scheme, tree=tree)
        assert torch.equal(packed.unpack(), codes * scale)
    sums = torch.from_numpy(pack(weight, None, "int8", tree=tree).arrays[2][: size[0]])
    assert torch.equal(sums, codes.sum(1).int())


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("scheme", ["int8", "int8-weight", "int4", "int4-int8"])
def test_a_number_that_is_none_shows_in_its_column_and_nowhere_else(scheme: str, broken: float) -> None:
    weight = drawn(40, 256).float()
    expected = pack(weight, None, scheme, tree=False).unpack()
    weight[7, 200] = broken
    found = pack(weight, None, scheme, tree=False).unpack()
    others = torch.arange(40) != 7
    assert not found[7].isfinite().all() and torch.equal(found[others], expected[others])


def test_a_bfloat16_nan_has_one_form() -> None:
    weight = torch.zeros(4, 32, dtype=torch.bfloat16)
    weight.view(torch.int16)[1, 3] = -3  # a NaN with bits of its own
    packed = pack(weight, None, "bfloat16", tree=False)
    assert raw(packed) == raw(pack(weight.float(), None, "bfloat16", tree=False)) and packed.unpack()[1, 3].isnan()
