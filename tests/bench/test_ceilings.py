"""Ceilings are measured in a few seconds on any machine, kept at their best, and refused where they are none."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

import pytest

from brigade.backends.cpu.library import available_paths, choose_path, find_kernels
from brigade.bench import ceilings
from brigade.bench.ceilings import Ceilings, measure_ceilings
from brigade.errors import ConfigError

ONE = Ceilings(2e9, {"float32": 3e9, "int8": 9e9}, 2, "torch sum", 1 << 20)


@pytest.fixture
def loops() -> Ceilings:
    rates, torch = {"float32": 64e9, "bfloat16": 70e9, "int8": 128e9}, {"float32": 60e9, "bfloat16": 70e9}
    own = {"float32": 64e9, "bfloat16": 64e9, "int8": 128e9}
    return Ceilings(2e9, rates, 2, "kernels", 1 << 20, path="avx2", clock=1e9, torch=torch, loops=own)


def test_the_better_of_two_is_taken_figure_by_figure() -> None:
    other = Ceilings(1e9, {"float32": 4e9, "bfloat16": 5e9}, 2, "torch max", 1 << 20)
    best = ONE.better(other)
    assert best == other.better(ONE) == Ceilings(2e9, {"float32": 4e9, "int8": 9e9, "bfloat16": 5e9}, 2, "torch sum", 1 << 20)
    assert "2.0 GB/s" in str(best) and "float32 4" in str(best)


def test_of_loops_and_torch_too(loops: Ceilings) -> None:
    slower = Ceilings(
        1e9, {"float32": 65e9}, 2, "kernels", 1 << 20, "avx2", 0.9e9, {"float32": 61e9, "int8": 1e9}, {"float32": 65e9}
    )
    both = loops.better(slower)
    assert both.clock == 1e9 and both.rate("float32") == 65e9
    assert both.torch == {"float32": 61e9, "bfloat16": 70e9, "int8": 1e9}
    assert both.loops == {"float32": 65e9, "bfloat16": 64e9, "int8": 128e9}


def test_multiply_adds_a_clock_stand_beside_each_rate(loops: Ceilings) -> None:
    assert loops.a_clock("float32") == 16 and loops.a_clock("int8") == 32 and ONE.a_clock("int8") is None
    assert "path avx2" in str(loops) and "at 1.00 GHz" in str(loops)
    assert "float32 64 (16), bfloat16 64 (16), int8 128 (32)" in str(loops), "what the loops reached, whatever torch did"


def test_torchs_products_that_are_slower_are_left_out_and_said(loops: Ceilings) -> None:
    assert str(loops).splitlines()[-1].strip() == (
        "torch's products: bfloat16 70 faster, and counted; float32 60 slower, and left out; int8 not there in time"
    )


def test_the_highest_rate_stands_beside_what_the_loop_reached(loops: Ceilings) -> None:
    assert loops.rate("bfloat16") == 70e9 and loops.beyond_loop("bfloat16") == 70 / 64
    assert loops.beyond_loop("float32") == 1 and ONE.beyond_loop("float32") == 1, "torch was slower; no loop was measured"


def test_an_arithmetic_without_a_ceiling_is_refused() -> None:
    assert ONE.rate("int8") == 9e9
    with pytest.raises(ConfigError, match="no ceiling of float8 arithmetic"):
        ONE.rate("float8")


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_ceiling_is_a_finite_number(value: float) -> None:
    with pytest.raises(ConfigError, match="bandwidth"):
        Ceilings(value, {}, 1, "torch sum", 1)


@pytest.fixture
def stuck(tmp_path: Path, monkeypatch) -> None:
    """A torch that says one thing, begins another, and then computes for longer than anybody waits."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho '{\"float32\": 5.0e15}'\nprintf '{\"int8\": 7'\nexec sleep 20\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(ceilings, "BUFFER", 1 << 20)
    for name, value in (("PEAK_SECONDS", 0.01), ("READ_UNTIL", 0.3), ("ASK_UNTIL", 0.8)):
        monkeypatch.setattr(ceilings, name, value, raising=False)


@pytest.mark.alone
def test_a_torch_that_computes_for_minutes_is_not_waited_for(stuck) -> None:
    begun = time.perf_counter()
    found = measure_ceilings(1)
    assert time.perf_counter() - begun < 10, "half of what it would take"
    assert found.torch == {"float32": 5e15} and found.rate("float32") == 5e15
    if find_kernels() is not None:
        assert found.rate("int8") > 1e6 and "bfloat16, int8 not there in time" in str(found)


def test_the_whole_measurement_ends_within_its_limit() -> None:
    """The plan: what is done after `ASK_UNTIL` is to read what was said. The parts before end by the clock as well."""
    assert ceilings.LIMIT == 5.0
    assert 4 * ceilings.PEAK_SECONDS < ceilings.FILL_UNTIL < ceilings.READ_UNTIL < ceilings.ASK_UNTIL < ceilings.LIMIT


@pytest.mark.skipif(find_kernels() is None, reason="the C++ kernels are not built: no compiler on this machine")
def test_every_path_has_a_loop_of_each_arithmetic(monkeypatch) -> None:
    monkeypatch.setattr(ceilings, "PEAK_SECONDS", 0.02)
    for name in available_paths():
        choose_path(name)
        try:
            measured = [ceilings.native_ceilings(1) for _ in range(5)]
        finally:
            choose_path("")
        for path, rates, clock in measured:
            assert path == name and set(rates) == {"float32", "bfloat16", "int8"}
            assert clock is not None and 2e8 < clock < 2e10 and min(rates.values()) > 1e7
        best = {kind: max(rates[kind] for _, rates, _ in measured) for kind in rates}  # other work may disturb any one of them
        assert best["int8"] > best["float32"]


def test_what_ends_the_measuring_process_is_said() -> None:
    with pytest.raises(ConfigError, match="could not be measured .*abacus"):
        measure_ceilings(1, "abacus")
