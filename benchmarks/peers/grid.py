"""A table with a title, as text for a terminal and as markdown for a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Grid:
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> list[str]:
        """The first column to the left, figures to the right, and words in the last to the left where there are any."""
        lines = [self.head, *self.rows]
        widths = [max(len(line[k]) for line in lines) for k in range(len(self.head))]
        wordy = [any(any(letter.isalpha() for letter in row[k]) for row in self.rows) for k in range(len(self.head))]
        shown = [
            "  ".join(
                f"{cell:<{width}}" if words else f"{cell:>{width}}" for cell, width, words in zip(line, widths, wordy, strict=True)
            )
            for line in lines
        ]
        return [self.title, *(line.rstrip() for line in shown)]

    def markdown(self) -> list[str]:
        rows = [self.head, ["---"] * len(self.head), *([cell.replace("|", "\\|") for cell in row] for row in self.rows)]
        return [f"**{self.title}**", "", *("| " + " | ".join(row) + " |" for row in rows)]
