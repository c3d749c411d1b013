"""A reading stands beside a repetition: quick, of both memory and arithmetic, and without a trace in torch's settings."""

from __future__ import annotations

import time

import pytest
import torch

from brigade.backends.cpu.library import find_kernels
from brigade.bench import gauge
from brigade.bench.gauge import Reading, make_gauge


@pytest.mark.parametrize("arithmetic", ["bfloat16", "int8", "float32"])
def test_it_reads_what_a_machine_can_do(arithmetic: str) -> None:
    found = make_gauge(arithmetic, 2)()
    assert 1e8 < found.bandwidth < 1e13
    if find_kernels() is None:
        assert found.rate is None
    else:
        assert found.rate is not None and 1e7 < found.rate < 1e16
    assert torch.get_num_threads() == 1, "as the tests set it"


@pytest.mark.alone
def test_a_reading_asks_no_product_of_torch_and_ends_by_the_clock(monkeypatch) -> None:
    """Some processors take seconds for a bfloat16 product of torch that another one does in milliseconds."""

    def product(*args) -> None:
        raise AssertionError("a product of torch was timed")

    monkeypatch.setattr(torch, "matmul", product)
    monkeypatch.setattr(torch, "_int_mm", product)
    monkeypatch.setattr(gauge, "MEMORY", 1 << 20)
    for arithmetic in ("bfloat16", "int8"):
        read = make_gauge(arithmetic, 1)
        begun = time.perf_counter()
        assert read().bandwidth > 0
        assert time.perf_counter() - begun < 5


def test_the_best_of_several_readings_counts() -> None:
    assert Reading(1.0, 5.0).better(Reading(2.0, 4.0)) == Reading(2.0, 5.0)
    assert Reading(1.0).better(Reading(2.0, 4.0)) == Reading(2.0, 4.0)
    assert Reading(3.0).better(Reading(2.0)) == Reading(3.0)
