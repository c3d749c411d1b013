"""Ceilings are measured, kept at their best, and refused where they are none."""

from __future__ import annotations

import json
import math

import pytest

from brigade.bench import ceilings
from brigade.bench.ceilings import Ceilings, measure_ceilings
from brigade.errors import ConfigError

ONE = Ceilings(2e9, {"float32": 3e9, "int8": 9e9}, 2, "torch sum", 1 << 20)


def test_the_better_of_two_is_taken_figure_by_figure() -> None:
    other = Ceilings(1e9, {"float32": 4e9, "bfloat16": 5e9}, 2, "torch max", 1 << 20)
    best = ONE.better(other)
    assert best == other.better(ONE) == Ceilings(2e9, {"float32": 4e9, "int8": 9e9, "bfloat16": 5e9}, 2, "torch sum", 1 << 20)
    assert "2.0 GB/s" in str(best) and "float32 4" in str(best)


def test_an_arithmetic_without_a_ceiling_is_refused() -> None:
    assert ONE.rate("int8") == 9e9
    with pytest.raises(ConfigError, match="no ceiling of float8 arithmetic"):
        ONE.rate("float8")


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_ceiling_is_a_finite_number(value: float) -> None:
    with pytest.raises(ConfigError, match="bandwidth"):
        Ceilings(value, {}, 1, "torch sum", 1)


def test_the_measuring_process(monkeypatch, capsys) -> None:
    monkeypatch.setattr(ceilings, "BUFFER", 1 << 20)
    monkeypatch.setattr(ceilings, "SIZES", {"cpu": (64,)})
    monkeypatch.setattr(ceilings, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr("sys.argv", ["ceilings", "--threads", "1", "--device", "cpu"])
    ceilings.main()
    found = Ceilings(**json.loads(capsys.readouterr().out))
    assert found.bandwidth > 1e7 and found.buffer == 1 << 20 and found.threads == 1
    assert set(found.rates) >= {"float32", "bfloat16"} and min(found.rates.values()) > 1e6


def test_what_ends_the_measuring_process_is_said() -> None:
    with pytest.raises(ConfigError, match="could not be measured .*abacus"):
        measure_ceilings(1, "abacus")
