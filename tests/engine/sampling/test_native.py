"""The kernels find what numpy finds by the definitions: the same bits of a weight, the same ids, on every instruction set."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from brigade.backends.cpu.library import available_paths, choose_path, find_kernels

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

from brigade.engine.sampling import native
from brigade.engine.sampling.draw import pick
from brigade.engine.sampling.filters import thresholds
from brigade.engine.sampling.masses import exponential, masses
from brigade.engine.sampling.settings import Settings


@pytest.fixture(autouse=True)
def way() -> None:
    """Both ways are asked here at once."""


@pytest.fixture(params=available_paths())
def path(request: pytest.FixtureRequest):
    choose_path(request.param)
    yield request.param
    choose_path("")


def test_the_exponential_is_right() -> None:
    x = -np.concatenate([np.linspace(0, 90, 100_003), np.logspace(-38, 2, 9_999), [np.inf]]).astype(np.float32)
    found, expected = exponential(x), np.exp(x.astype(np.float64))
    held = x > -87
    assert (np.abs(found - expected)[held] <= 2.5e-7 * expected[held]).all()
    assert found[0] == 1 and found.max() <= 1 and found[-1] == 0 and (found >= 0).all()


@pytest.mark.parametrize("width", [1, 15, 16, 700, 4099])
def test_weights_and_totals_have_the_same_bits(path: str, width: int) -> None:
    generator = np.random.default_rng(width)
    logits = (generator.normal(size=(5, width)) * [[0.01], [1], [5], [40], [400]]).astype(np.float32)
    logits[1, width // 2] = -np.inf
    greatest = logits.max(axis=1, keepdims=True)
    greatest[~np.isfinite(greatest)] = 0
    heat = generator.uniform(0.1, 2, size=(5, 1)).astype(np.float32)
    assert np.array_equal(native.weigh(logits, greatest, heat), exponential((logits - greatest) / heat))
    assert np.array_equal(native.total_masses(logits, greatest), masses(exponential(logits - greatest)).sum(axis=1))


@pytest.mark.parametrize("width", [1, 15, 16, 17, 1023, 1024, 1040, 2049, 4099])
def test_the_best_tokens_are_the_first_of_the_greatest(path: str, width: int) -> None:
    generator = np.random.default_rng(width)
    for spread in (0.0, 1.0, 60.0):
        logits = np.round(generator.normal(size=(5, width)) * spread).astype(np.float32)  # ties, also of 0 and -0
        logits[1, generator.random(width) < 0.5] = -np.inf
        logits[:, generator.integers(width)] = logits.max(axis=1).clip(-1e30)
        assert native.best_tokens(torch.from_numpy(logits)) == logits.argmax(axis=1).tolist()


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 7, 1500, 2047])
def test_no_best_tokens_where_one_is_not_finite(path: str, place: int, broken: float) -> None:
    logits = np.zeros((3, 2048), np.float32)
    logits[1, :place] = -np.inf if broken == -np.inf else 1e30
    logits[1, place:] = broken
    assert native.best_tokens(torch.from_numpy(logits)) is None
    assert native.best_tokens(torch.from_numpy(logits[::2].copy())) == [0, 0]


def test_no_best_tokens_of_logits_that_lie_otherwise() -> None:
    logits = torch.randn(4, 6)
    assert native.best_tokens(logits) == logits.argmax(dim=1).tolist()
    for other in (logits[:, ::2], logits.double(), logits.bfloat16(), logits.T):
        assert native.best_tokens(other) is None


def by_definition(logits: np.ndarray, greatest: np.ndarray, wish: Settings, bits: np.ndarray) -> list[int]:
    weights = exponential((logits - greatest) / wish.temperature)
    weights[(logits < thresholds(logits, weights, wish)[:, None]) | (weights < wish.min_p)] = 0
    return pick(masses(weights), bits)


COUNT = 6


@given(
    width=st.one_of(st.integers(1, 40), st.integers(41, 3000)), seed=st.integers(0, 999), step=st.sampled_from([0, 0.001, 0.5]),
    spread=st.sampled_from([0.0, 0.01, 1, 4, 60]), hidden=st.sampled_from([0.0, 0.5, 0.99]), data=st.data(),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_tokens_are_those_of_the_definitions(width, seed, step, spread, hidden, data) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(COUNT, width)) * spread
    if step:  # ties
        logits = np.round(logits / step) * step
    logits = np.where(generator.random(logits.shape) < hidden, -np.inf, logits).astype(np.float32)
    logits[:, width // 2] = 0.25
    greatest = logits.max(axis=1, keepdims=True)

    def column(values: st.SearchStrategy, kind: type) -> np.ndarray:
        return np.array([data.draw(values) for _ in range(COUNT)], kind)

    wish = Settings(
        column(st.sampled_from([1e-4, 0.3, 1.0, 2.5, 100.0]), np.float32)[:, None],
        column(st.sampled_from([0, 1, 2, 7, 255, width, 2**31]), np.int64),
        column(st.sampled_from([1.0, 1e-9, 0.1, 0.5, 0.9, 0.999, 1 - 2**-53]), np.float64),
        column(st.sampled_from([0.0, 1e-6, 0.05, 1.0]), np.float32)[:, None],
        torch.device("cpu"),
    )
    bits = column(st.one_of(st.integers(0, 2**53 - 1), st.sampled_from([0, 2**53 - 1])), np.uint64)
    expected = by_definition(logits, greatest, wish, bits)
    for name in available_paths():
        choose_path(name)
        try:
            assert native.draw(logits, greatest, wish, bits) == expected, name
        finally:
            choose_path("")
