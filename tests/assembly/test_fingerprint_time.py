"""What a fingerprint costs."""

from __future__ import annotations

import time

import pytest

from brigade.assembly.choices import Choices
from brigade.assembly.fingerprint import loaded_fingerprint
from brigade.assembly.line import draw, load
from brigade.backends.cpu.library import find_kernels


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.skipif(find_kernels() is None, reason="the C++ kernels are not built: no compiler on this machine")
@pytest.mark.parametrize("quant", ["none", "int8"])
def test_it_takes_at_most_a_twentieth_of_loading_the_model(quant: str) -> None:
    """In seconds of the processor, which other work on the machine hardly changes. Weights that are made of a seed take about as
    long to load as those of a folder."""
    begun = time.process_time()
    parts = load(draw(Choices("gpt-345m", random_weights=0, dtype="bfloat16", quant=quant, backend="cpu")))
    loaded = time.process_time()
    loaded_fingerprint(parts)
    assert time.process_time() - loaded <= 0.05 * (loaded - begun)
