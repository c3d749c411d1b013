"""A table with a title, as text for a terminal and as markdown for a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from brigade.text_table import columns


@dataclass(frozen=True)
class Grid:
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> list[str]:
        """Columns with words to the left, and figures to the right."""
        wordy = [k for k in range(len(self.head)) if any(any(letter.isalpha() for letter in row[k]) for row in self.rows)]
        return [self.title, *columns([self.head, *self.rows], left=wordy)]

    def markdown(self) -> list[str]:
        rows = [self.head, ["---"] * len(self.head), *([cell.replace("|", "\\|") for cell in row] for row in self.rows)]
        return [f"**{self.title}**", "", *("| " + " | ".join(row) + " |" for row in rows)]
