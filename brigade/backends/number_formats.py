"""In which number formats a model is held and computed, in words for the first line of a table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NumberFormats:
    """`weights`: as they are held; `arithmetic`: of the matrix products; `cache`: of keys and values."""

    weights: str
    arithmetic: str
    cache: str

    def __str__(self) -> str:
        return f"weights: {self.weights}; arithmetic: {self.arithmetic}; cache: {self.cache}"
