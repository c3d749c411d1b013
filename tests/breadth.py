"""Which combinations of a wide matrix the suite runs; the others are left to the slow set."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import pytest


def one_in(keep: int, *axes: Iterable[Any]) -> list:
    """Every combination of a value of each axis, for `pytest.mark.parametrize`. One in `keep` stays in the suite, along the
    diagonals, and more where an axis is too short for that: every value of every axis stays. The rest is marked slow. Of two axes
    with an even number of values the same halves meet: give an axis that must meet all of another to the test by itself."""
    axes = tuple(tuple(axis) for axis in axes)
    combinations = list(product(*(range(len(axis)) for axis in axes)))
    kept = next((found for step in range(keep, 0, -1) if is_every_value_in(found := diagonals(combinations, step), axes)), ())
    return [combine(indices, axes, indices not in kept) for indices in combinations]


def every_other(cases: Iterable[tuple]) -> list:
    """The first case, the third and so on stay in the suite; the rest is marked slow."""
    return [pytest.param(*case, marks=[pytest.mark.slow] * (number % 2)) for number, case in enumerate(cases)]


def diagonals(combinations: list[tuple[int, ...]], step: int) -> set[tuple[int, ...]]:
    return {indices for indices in combinations if sum(indices) % step == 0}


def is_every_value_in(kept: set[tuple[int, ...]], axes: tuple[tuple, ...]) -> bool:
    return all({indices[number] for indices in kept} == set(range(len(axis))) for number, axis in enumerate(axes))


def combine(indices: tuple[int, ...], axes: tuple[tuple, ...], slow: bool):
    values = [axis[index] for axis, index in zip(axes, indices, strict=True)]
    return pytest.param(*values, marks=[pytest.mark.slow] * slow)
