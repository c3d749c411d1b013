"""The greatest logits of a row are found as a whole sort finds them."""

from __future__ import annotations

import numpy as np
import pytest

from brigade.engine.sampling.filters import greatest_of


@pytest.mark.parametrize(
    ("count", "vocabulary", "width"), [(1, 2051, 256), (32, 4096, 256), (3, 4099, 7), (5, 700, 256), (0, 4096, 256)]
)
@pytest.mark.parametrize("kind", ["normal", "ties", "equal", "hidden"])
def test_they_are_those_of_a_sort(count: int, vocabulary: int, width: int, kind: str) -> None:
    logits = np.random.default_rng(0).normal(size=(count, vocabulary)).astype(np.float32)
    if kind == "ties":
        logits = np.round(logits)
    elif kind == "equal":
        logits[:] = 1.5
    elif kind == "hidden":
        logits[:, 9:] = -np.inf
    assert np.array_equal(greatest_of(logits, width), np.sort(logits, axis=1)[:, ::-1][:, :width])
