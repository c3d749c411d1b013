"""Numbers of a file become those that torch makes of them, whichever way round they lie, and what is not finite is noticed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from brigade.backends.base import is_finite
from brigade.backends.cpu.library import find_kernels

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

from brigade.backends.cpu.hold import hold
from brigade.backends.cpu.threads import size_pool

STORED, HELD = [torch.float32, torch.bfloat16, torch.float16], [torch.float32, torch.bfloat16]


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.int16 if tensor.dtype.itemsize == 2 else torch.int32)


def every_half(dtype: torch.dtype) -> torch.Tensor:
    return torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(dtype)


@pytest.mark.parametrize("dtype", HELD, ids=str)
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16], ids=str)
def test_every_number_of_16_bits(stored: torch.dtype, dtype: torch.dtype) -> None:
    numbers = every_half(stored)
    numbers = numbers[~numbers.isnan()]
    held, finite = hold(numbers, dtype)
    assert torch.equal(bits(held), bits(numbers.to(dtype))) and not finite
    assert hold(numbers[numbers.isfinite()], torch.float32)[1]


@given(
    stored=st.sampled_from(STORED), dtype=st.sampled_from(HELD), rows=st.integers(0, 200), columns=st.integers(1, 200),
    seed=st.integers(0, 1 << 20), is_turned=st.booleans(), threads=st.sampled_from([1, 2]),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_of_any_shape(stored, dtype, rows: int, columns: int, seed: int, is_turned: bool, threads: int) -> None:
    """Of float32, numbers of any 32 bits: halves between two numbers, what has no exponent, what becomes too large."""
    generator = torch.Generator().manual_seed(seed)
    if stored == torch.float32:
        tensor = torch.randint(-(1 << 31), 1 << 31, (rows, columns), generator=generator).to(torch.int32).view(torch.float32)
        tensor = torch.where(tensor.isfinite(), tensor, 1.0)
    else:
        tensor = torch.randn(rows, columns, generator=generator).to(stored)
    tensor = tensor.t().contiguous().t() if is_turned else tensor
    size_pool(threads=threads)
    try:
        held, finite = hold(tensor, dtype)
    finally:
        size_pool(threads=1)
    expected = tensor.to(dtype).contiguous()
    assert held.is_contiguous() and held.shape == tensor.shape and torch.equal(bits(held), bits(expected))
    assert finite == is_finite(expected)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", HELD, ids=str)
@pytest.mark.parametrize("stored", STORED, ids=str)
def test_many_numbers_are_shared_out_among_threads(stored, dtype, threads: int) -> None:
    """In pieces of 65,536, the last of them short."""
    count = 3 * 65536 + 7
    numbers = torch.randn(count, generator=torch.Generator().manual_seed(5)).to(stored)
    size_pool(threads=threads)
    try:
        held, finite = hold(numbers, dtype)
        assert finite and torch.equal(bits(held), bits(numbers.to(dtype)))
        for place in (65535, 65536, 2 * 65536 + 1, -1):
            broken = numbers.clone()
            broken[place] = float("nan")
            assert not hold(broken, dtype)[1]
    finally:
        size_pool(threads=1)


def test_of_other_shapes_and_strides() -> None:
    table = torch.randn(8, 30)
    for tensor in (torch.tensor(1.5), table.view(2, 4, 30), table[:, ::3], table[::2, 1:5], table[0].expand(5, 30), table.t()[:7]):
        for dtype in HELD:
            held, finite = hold(tensor, dtype)
            assert finite and held.is_contiguous() and torch.equal(held, tensor.to(dtype)) and held.shape == tensor.shape
    with pytest.raises(KeyError):
        hold(table, torch.float16)


@pytest.mark.parametrize("is_turned", [False, True])
@pytest.mark.parametrize("dtype", HELD, ids=str)
@pytest.mark.parametrize("stored", STORED, ids=str)
@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_one_broken_number_is_noticed_wherever_it_is(stored, dtype, broken: float, is_turned: bool) -> None:
    for row, column in ((0, 0), (0, 129), (69, 0), (69, 129), (64, 64), (31, 77)):
        tensor = torch.ones(70, 130).to(stored)
        tensor[row, column] = broken
        assert not hold(tensor.t().contiguous().t() if is_turned else tensor, dtype)[1]
    assert hold(torch.ones(70, 130).to(stored), dtype)[1]


def test_what_bfloat16_cannot_hold_is_not_finite() -> None:
    largest = torch.tensor([torch.finfo(torch.float32).max])
    assert hold(largest, torch.float32)[1] and not hold(largest, torch.bfloat16)[1]


def test_what_is_held_so_already_is_not_copied() -> None:
    tensor = torch.ones(5, 5)
    assert hold(tensor, torch.float32)[0].data_ptr() == tensor.data_ptr()
    assert hold(tensor, torch.bfloat16)[0].data_ptr() != tensor.data_ptr()
