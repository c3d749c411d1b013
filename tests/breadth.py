"""Which combinations of a wide matrix the suite runs; the others are left to the slow set."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import pytest

ParameterSet = type(pytest.param())


def one_in(keep: int, *axes: Iterable[Any]) -> list:
    """Every combination of a value of each axis, for `pytest.mark.parametrize`. One in `keep` stays in the suite, along the
    diagonals, and more where an axis is too short for that: every value of every axis stays. The rest is marked slow. A value may
    carry marks of its own (`pytest.param`)."""
    axes = tuple(tuple(axis) for axis in axes)
    combinations = list(product(*(range(len(axis)) for axis in axes)))
    kept = next(found for step in range(keep, 0, -1) if is_every_value_in(found := diagonals(combinations, step), axes))
    return [combine(indices, axes, indices not in kept) for indices in combinations]


def diagonals(combinations: list[tuple[int, ...]], step: int) -> set[tuple[int, ...]]:
    return {indices for indices in combinations if sum(indices) % step == 0}


def is_every_value_in(kept: set[tuple[int, ...]], axes: tuple[tuple, ...]) -> bool:
    return all({indices[number] for indices in kept} == set(range(len(axis))) for number, axis in enumerate(axes))


def combine(indices: tuple[int, ...], axes: tuple[tuple, ...], slow: bool):
    each = [axis[index] for axis, index in zip(axes, indices, strict=True)]
    marks = [mark for value in each if isinstance(value, ParameterSet) for mark in value.marks]
    values = [value.values[0] if isinstance(value, ParameterSet) else value for value in each]
    return pytest.param(*values, marks=[*marks, pytest.mark.slow] if slow else marks)
