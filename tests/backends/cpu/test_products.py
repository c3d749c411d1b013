"""Packed products: right on every path, and a row's bits do not depend on its company."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from brigade.backends.cpu.library import available_paths, bf16_names, choose_path, find_kernels

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

from brigade.backends.cpu.matrix import KINDS, pack

SCHEMES = tuple(KINDS)
TOLERANCE = {"float32": 2e-6, "bfloat16": 1e-2, "int8": 2e-2, "int8-weight": 1e-2, "int4": 1e-2, "int4-int8": 2e-2}


@pytest.fixture(params=available_paths())
def path(request: pytest.FixtureRequest):
    choose_path(request.param)
    yield request.param
    choose_path("")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("size", [(96, 256), (70, 100), (33, 1024), (1, 7)])
@pytest.mark.parametrize("tree", [False, True])
def test_the_product_is_that_of_the_unpacked_numbers(path: str, scheme: str, size: tuple[int, int], tree: bool) -> None:
    torch.manual_seed(1)
    weight, bias, x = torch.randn(size), torch.randn(size[0]), torch.randn(37, size[1])
    packed = pack(weight, bias, scheme, tree)
    held = packed.unpack()
    expected = x.double() @ held.double().T + bias
    assert (packed(x) - expected).abs().max() <= TOLERANCE[scheme] * expected.abs().max().clamp(min=1)
    steps = {"float32": 0, "bfloat16": 2**-8, "int8": 1 / 127, "int8-weight": 1 / 127, "int4": 1, "int4-int8": 1}[
        scheme
    ]  # int4 may cut off
    assert (held - weight).abs().max() <= 0.51 * steps * weight.abs().max() + 1e-7


@given(
    scheme=st.sampled_from(SCHEMES), n=st.integers(1, 90), k=st.integers(1, 300), rows=st.integers(1, 70), tree=st.booleans(),
    seed=st.integers(0, 9), data=st.data(),
)  # fmt: skip
@settings(max_examples=120, deadline=None)
def test_a_row_does_not_see_its_company(scheme, n, k, rows, tree, seed, data) -> None:
    generator = torch.Generator().manual_seed(seed)
    packed = pack(torch.randn(n, k, generator=generator), None, scheme, tree, group=data.draw(st.sampled_from([32, 64, 128])))
    x = torch.randn(rows, k, generator=generator)
    first = data.draw(st.integers(0, rows - 1))
    last = data.draw(st.integers(first + 1, rows))
    choose_path(data.draw(st.sampled_from(available_paths())))
    try:
        assert torch.equal(packed(x[first:last]), packed(x)[first:last])
    finally:
        choose_path("")


@pytest.mark.parametrize("scheme", ["float32", "int8", "int4-int8"])
def test_fp32_and_int8_have_the_same_bits_on_every_path(scheme: str) -> None:
    torch.manual_seed(2)
    packed, x = pack(torch.randn(65, 200), torch.randn(65), scheme, tree=True), torch.randn(19, 200)
    results = []
    for name in available_paths():
        choose_path(name)
        results.append(packed(x))
    choose_path("")
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("scheme", ["int8", "int4-int8"])
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_sums_of_the_largest_numbers_do_not_run_over(path: str, scheme: str, group: int, sign: float) -> None:
    """Kernels add products in 16 bits where they may: here most products are the largest there are, and have one sign."""
    k = 1024
    weight = torch.full((64, k), -8.0)  # the lowest nibble, which stands for -8; times its group's 16 it is -128
    weight[:, ::group] = 7.0  # so that the scale of a group is 1
    weight[32:] *= -1.0  # and the other way round, as far as nibbles reach
    packed = pack(weight, None, scheme, tree=False, group=group)
    held = packed.unpack()
    if scheme == "int4-int8":
        assert torch.equal(held[:32], weight[:32])
    for rows in (1, 2, 3, 5, 8, 16, 17, 33):
        x = torch.full((rows, k), sign)
        expected = x.double() @ held.double().T
        assert (packed(x) - expected).abs().max() <= 1e-6 * expected.abs().max()


@given(
    scheme=st.sampled_from(SCHEMES), n=st.integers(1, 90), k=st.integers(1, 400), rows=st.integers(1, 40), tree=st.booleans(),
    group=st.sampled_from([32, 64, 128]), seed=st.integers(0, 9),
)  # fmt: skip
@settings(max_examples=120, deadline=None)
def test_paths_whose_arithmetic_has_one_name_have_the_same_bits(scheme, n, k, rows, tree, group, seed) -> None:
    """Kernels differ by path and by the number of rows, and weights of few bits are unpacked in many ways."""
    generator = torch.Generator().manual_seed(seed)
    packed = pack(torch.randn(n, k, generator=generator), None, scheme, tree, group=group)
    x = torch.randn(rows, k, generator=generator)
    found: dict[str, torch.Tensor] = {}
    try:
        for name, arithmetic in bf16_names().items():
            choose_path(name)
            alike = "same everywhere" if scheme in ("float32", "int8", "int4-int8") else arithmetic
            assert torch.equal(packed(x), found.setdefault(alike, packed(x))), name
    finally:
        choose_path("")


@pytest.mark.parametrize("scheme", ["int8-weight", "int4", "int4-int8"])
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("tree", [False, True])
def test_few_rows_that_meet_few_bits_have_the_same_bits_on_every_path(scheme: str, group: int, tree: bool) -> None:
    """Each path unpacks these in registers in its own way, some of them two groups at once; odd numbers of groups are left over."""
    generator = torch.Generator().manual_seed(11)
    for groups in (1, 2, 3, 5, 8, 17):
        weight = torch.randn(64, groups * group, generator=generator)
        weight[::3, ::group], weight[1::3, ::group] = 3.0, -3.0  # so that both ends are there
        packed = pack(weight, None, scheme, tree, group=group)
        for rows in (1, 2, 3, 4, 8, 9, 16, 17):
            x = torch.randn(rows, groups * group, generator=generator)
            x[0, :6] = torch.tensor([-0.0, 1e-40, -1e-40, 1e30, -1e30, 0.0])
            if rows > 2:
                x[1, 5], x[2, 7] = float("inf"), float("nan")
            assert_same_on_every_path(packed, x, whole=scheme == "int4-int8")


@pytest.mark.parametrize("scheme", ["int8", "int4-int8"])
def test_rows_without_a_finite_scale_have_one_result_on_every_path(scheme: str) -> None:
    """Their numbers cannot be held in int8: of a number that is not finite all products are NaN, and numbers too near 0 are 0."""
    near, broken = [0.0, -0.0, 1e-45, -1e-40, 1e-37, -3.7e-37], [float("inf"), -float("inf"), float("nan")]
    generator = torch.Generator().manual_seed(5)
    packed = pack(torch.randn(70, 200, generator=generator), None, scheme, tree=True)
    x = torch.randn(15, 200, generator=generator)
    for row, number in enumerate(near):
        x[row] = number
    for row, number in enumerate(broken, len(near)):
        x[row, 9] = number
    x[9], x[10] = 3.8e-37, torch.finfo(torch.float32).max / 200  # the least and the greatest that are as any other row
    found = []
    try:
        for name in available_paths():
            choose_path(name)
            for rows in (1, 11, 15):
                y = torch.cat([packed(part) for part in x.split(rows)])
                assert not y[: len(near)].any() and y[len(near) : 9].isnan().all(), name
                assert y[9:].isfinite().all() and y[9:].any(1).all(), name
                found.append(y[9:])
        assert all(torch.equal(found[0], y) for y in found)
    finally:
        choose_path("")


def assert_same_on_every_path(packed, x: torch.Tensor, whole: bool) -> None:
    """Bit for bit where a result is finite, and not finite in the same places; `whole`: of sums of whole numbers, on all paths."""
    found: dict[str, torch.Tensor] = {}
    try:
        for name, arithmetic in bf16_names().items():
            choose_path(name)
            y = packed(x)
            first = found.setdefault("whole" if whole else arithmetic, y)
            finite = first.isfinite()
            assert torch.equal(finite, y.isfinite()) and torch.equal(first[finite], y[finite]), (name, x.shape)
            assert finite[0].all(), "a row that is finite stays so beside others"
    finally:
        choose_path("")


def test_a_tree_product_is_the_tree_of_its_blocks() -> None:
    """What lets a later layout give each rank its blocks: leaves are products of their own, added pair by pair."""
    torch.manual_seed(3)
    weight, x = torch.randn(40, 512), torch.randn(5, 512)
    for scheme in ("float32", "bfloat16"):
        pairs = zip(weight.chunk(8, 1), x.chunk(8, 1), strict=True)
        leaves = [pack(w.contiguous(), None, scheme, False)(part.contiguous()) for w, part in pairs]
        while len(leaves) > 1:
            leaves = [a + b for a, b in zip(leaves[::2], leaves[1::2], strict=True)]
        assert torch.equal(pack(weight, None, scheme, True)(x), leaves[0])


def test_gated_panels_are_activated_gate_times_up() -> None:
    torch.manual_seed(4)
    weight, bias = torch.randn(60, 64), torch.randn(60)
    packed = pack(weight, bias, "float32", tree=False, gated=True, activation="silu")
    assert torch.equal(packed.unpack(), weight)
