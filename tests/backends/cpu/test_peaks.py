"""No product passes the loops that do nothing but multiply and add: what a share of a floor is held against."""

from __future__ import annotations

import time

import pytest
import torch

from brigade.backends.cpu.library import available_paths, choose_path, find_kernels, kernels

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

from brigade.backends.cpu.matrix import pack
from brigade.bench.ceilings import native_rate

ROWS, WIDTH = 64, 256  # what lies in the second-level cache
NOISE = 1.05
TRIES = 10  # other work of the machine makes a loop slower than it is, never faster: the best of all counts
# Multiply-adds in a cycle of the weakest processor that has the instructions: a loop below that waits for something.
LEAST = {
    "amx": {"float32": 11, "bfloat16": 200, "int8": 400},
    "avx512-bf16": {"float32": 11, "bfloat16": 11, "int8": 44},
    "avx512-vnni": {"float32": 11, "int8": 44},
    "avx512": {"float32": 11, "int8": 11},
    "avx2": {"float32": 7, "int8": 14},
}


@pytest.fixture(params=available_paths())
def path(request):
    choose_path(request.param)
    yield request.param
    choose_path("")


@pytest.mark.alone
@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16", "int8"])
def test_no_product_is_faster(path: str, arithmetic: str) -> None:
    weight = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0))
    matrix = pack(weight if arithmetic == "float32" else weight.bfloat16(), None, arithmetic, tree=False)
    x = torch.ones(ROWS, WIDTH)
    best = peak = 0.0
    for _ in range(TRIES):
        peak = max(peak, native_rate(arithmetic, 1, 0.05))
        ends = time.perf_counter() + 0.1
        while time.perf_counter() < ends:
            begun = time.perf_counter()
            matrix(x)
            best = max(best, 2 * ROWS * WIDTH * WIDTH / (time.perf_counter() - begun))
        peak = max(peak, native_rate(arithmetic, 1, 0.05))
        if best <= NOISE * peak:
            break
    assert 0.02 * peak < best <= NOISE * peak


@pytest.mark.alone
def test_the_loops_reach_what_the_processor_can_do(path: str) -> None:
    clock = kernels().br_clock(1, 0.05)
    for arithmetic, least in LEAST.get(path, {}).items():
        assert max(native_rate(arithmetic, 1, 0.1) for _ in range(3)) / 2 / clock > least


def test_threads_add_up(path: str) -> None:
    one = two = 0.0
    for _ in range(TRIES):
        one, two = (max(most, native_rate("float32", threads, 0.05)) for most, threads in ((one, 1), (two, 2)))
        if 0.8 * one < two:
            break
    assert 0.8 * one < two < 3 * one  # two threads of one core have together what one of them has alone
