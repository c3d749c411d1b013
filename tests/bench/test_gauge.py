"""A reading stands beside a repetition: quick, of both memory and arithmetic, and without a trace in torch's settings."""

from __future__ import annotations

import pytest
import torch

from brigade.bench import gauge
from brigade.bench.gauge import Reading, make_gauge


@pytest.mark.parametrize("arithmetic", ["bfloat16", "int8", "float32"])
def test_it_reads_what_a_machine_can_do(arithmetic: str, monkeypatch) -> None:
    monkeypatch.setattr(gauge, "SIZE", 256)
    read = make_gauge(arithmetic, 2)
    found = read()
    assert 1e8 < found.bandwidth < 1e13
    if arithmetic == "float32":
        assert found.rate is None
    else:
        assert found.rate is not None and 1e8 < found.rate < 1e16
    assert torch.get_num_threads() == 1, "as the tests set it"


def test_the_best_of_several_readings_counts() -> None:
    assert Reading(1.0, 5.0).better(Reading(2.0, 4.0)) == Reading(2.0, 5.0)
    assert Reading(1.0).better(Reading(2.0, 4.0)) == Reading(2.0, 4.0)
    assert Reading(3.0).better(Reading(2.0)) == Reading(3.0)
