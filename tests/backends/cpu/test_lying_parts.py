"""A part of a packed matrix that is used where the whole lies: no copy, and in every product the bits of a part of its own."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch

from brigade.backends.cpu.library import choose_path, find_kernels, kernels

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

from brigade.backends.cpu.cut import cut_matrix, lying_part, on_panel_border, place_of, take_part
from brigade.backends.cpu.matrix import KINDS, SUMMED, Layout, PackedMatrix, Panels, pack
from brigade.mesh import Cut
from tests.backends.cpu.paths import FOUND
from tests.backends.cpu.test_cut import numbers, same_bytes

SCHEMES = tuple(KINDS)
ROWS = (1, 3, 20, 70)  # few, more than a tile of them, more than a block, which are multiplied with an expanded panel
# Heads of queries, keys and values of the rank in the middle of each layout; two runs that touch; a last panel that is not full.
HEADS = {
    "tp 2": Cut(-2, ((256, 512), (576, 640), (704, 760))),
    "tp 4": Cut(-2, ((128, 256), (544, 576), (672, 704))),
    "tp 8": Cut(-2, ((64, 128), (512, 544), (640, 672))),
    "one run": Cut(-2, ((64, 320),)),
    "two that touch": Cut(-2, ((0, 512), (512, 576), (736, 760))),
}
QKV = (760, 160)


@pytest.fixture(params=FOUND)
def path(request: pytest.FixtureRequest):
    choose_path(request.param)
    yield request.param
    choose_path("")


def where(matrix: PackedMatrix) -> list[np.ndarray]:
    """The memory that a part's panels and 4-bit scales are in."""
    return [run for array in matrix.arrays if isinstance(array, Panels) for run in array.runs]


def products(matrix: PackedMatrix) -> list[torch.Tensor]:
    generator, found = torch.Generator().manual_seed(0), []
    for rows in ROWS:
        x = torch.randn(rows, matrix.shape[1], generator=generator)
        out = torch.zeros(rows, matrix.shape[0] // (2 if matrix.layout.gated else 1))
        kernels().br_linear(ctypes.byref(matrix.struct), x.data_ptr(), rows, out.data_ptr())
        found.append(out)
    return found


def sums(matrix: PackedMatrix, rows: int = 5) -> torch.Tensor:
    """Of this rank's blocks alone, before ranks exchange them."""
    x = torch.randn(rows, matrix.shape[1], generator=torch.Generator().manual_seed(1))
    out = torch.empty(rows, matrix.shape[0], dtype=torch.int32 if matrix.scheme in SUMMED else torch.float32)
    most, scale = x.abs().amax(1), torch.empty(rows)
    kernels().br_linear_part(
        ctypes.byref(matrix.struct), x.data_ptr(), rows, most.data_ptr(), out.data_ptr(), scale.data_ptr()
    )  # fmt: skip
    return out


def check(whole: PackedMatrix, cut: Cut) -> None:
    lying, own = lying_part(whole, cut), cut_matrix(whole, cut)
    assert where(own) == [] and where(lying) and lying.nbytes == own.nbytes
    arrays = [array for array in whole.arrays[:2] if array is not None]
    assert all(any(np.shares_memory(run, array) for array in arrays) for run in where(lying))
    assert same_bytes(lying, own) and torch.equal(lying.unpack(), own.unpack())
    assert all(torch.equal(a, b) for a, b in zip(products(lying), products(own), strict=True))
    if whole.layout.tree:
        assert torch.equal(sums(lying), sums(own)) and sums(own).count_nonzero() > 0


@pytest.mark.parametrize("scheme", SCHEMES)
def test_heads_in_up_to_three_runs_of_panels(scheme: str, path: str) -> None:
    weight, bias = numbers(*QKV, 1)
    whole = pack(weight, bias, scheme, tree=False)
    for cut in HEADS.values():
        check(whole, cut)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_gate_and_what_belongs_to_it(scheme: str, path: str) -> None:
    weight, _ = numbers(2 * 256, 96, 2)
    whole = pack(weight, None, scheme, tree=False, gated=True, activation="silu")
    for size in (2, 4, 8):
        each = 256 // size
        check(whole, Cut(-2, ((each, 2 * each), (256 + each, 256 + 2 * each))))


@pytest.mark.parametrize("k", [8 * 128, 8 * 20])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_run_of_k_out_of_every_panel(scheme: str, k: int, path: str) -> None:
    weight, bias = numbers(90, k, 3)
    whole = pack(weight, bias, scheme, tree=True, group=64)
    for size in (2, 4, 8):
        for rank in (0, size - 1):
            check(whole, Cut(-1, ((rank * k // size, (rank + 1) * k // size),)))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_the_kernels_cannot_find_is_put_together_anew(scheme: str) -> None:
    """Four runs, and a cut inside of a panel."""
    whole = pack(numbers(*QKV, 4)[0], None, scheme, tree=False)
    for runs in (((0, 32), (64, 96), (128, 160), (192, 224)), ((0, 32), (40, 72))):
        cut = Cut(-2, runs)
        part = take_part(whole, cut)
        assert not on_panel_border(whole.layout, cut) and where(part) == []
        assert all(torch.equal(a, b) for a, b in zip(products(part), products(cut_matrix(whole, cut)), strict=True))
    assert where(take_part(whole, HEADS["tp 4"]))


def test_which_panels_and_blocks_hold_a_part() -> None:
    """A part inside of panels needs every panel that it touches."""
    plain, gated, tree = Layout("int8", 200, 64), Layout("int8", 200, 64, gated=True), Layout("int8", 200, 640, tree=True)
    for layout, cut, panels, blocks in (
        (plain, None, ((0, 7),), (0, 1)),
        (plain, Cut(-2, ((32, 96), (160, 200))), ((1, 3), (5, 7)), (0, 1)),
        (plain, Cut(-2, ((10, 40), (150, 151))), ((0, 2), (4, 5)), (0, 1)),
        (gated, Cut(-2, ((20, 50), (120, 150))), ((1, 4),), (0, 1)),
        (tree, Cut(-1, ((160, 320),)), ((0, 7),), (2, 4)),
    ):  # fmt: skip
        place = place_of(layout, cut)
        assert (place.panels, place.blocks) == (panels, blocks)
