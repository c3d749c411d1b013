"""What other processes took of the machine, and when that is too much to read figures as this machine's."""

from __future__ import annotations

import os

import pytest

from brigade.bench.others import Others, busy_seconds, company


def test_what_others_took_is_what_the_machine_did_less_our_own(monkeypatch) -> None:
    line = "cpu  100 20 30 900 50 6 7 8 40 1"
    assert busy_seconds(line, 100) == pytest.approx(1.71)  # neither idle, nor waiting, nor guests twice
    reads = iter([(0.0, 10.0, 1.0), (2.0, 13.0, 3.0)])
    monkeypatch.setattr(Others, "_read", staticmethod(lambda: next(reads)))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert Others().share() == pytest.approx(0.25)
    reads = iter([None, None])
    monkeypatch.setattr(Others, "_read", staticmethod(lambda: next(reads)))
    assert Others().share() is None


def test_a_busy_machine_is_named() -> None:
    assert company([], "runs").endswith("is not known")
    assert "took 1% of the machine (median of all runs; at most 50%)" in company([0.0, 0.01, 0.5], "runs")
    assert "it was busy" in company([0.2, 0.3], "runs") and "it was busy" not in company([0.0, 0.01, 0.5], "runs")
