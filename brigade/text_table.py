"""Tables for a terminal: every column is as wide as its widest cell, so that columns never run into each other."""

from __future__ import annotations

from collections.abc import Sequence

GAP = "  "


def columns(lines: Sequence[Sequence[str]], left: Sequence[int] = (0,), indent: str = "") -> list[str]:
    """Lines of cells as lines of text. Columns in `left` are flush left, all others flush right."""
    widths = _widths(lines)
    return [(indent + GAP.join(_placed(line, widths, left))).rstrip() for line in lines]


def grouped(groups: Sequence[tuple[str, Sequence[Sequence[str]]]]) -> list[str]:
    """Tables of equally many lines side by side, each under its title, which makes a narrow table wider. All flush right; the lines
    below the titles are equally long."""
    blocks = []
    for title, lines in groups:
        widths = _widths(lines)
        widths[0] += max(len(title) - sum(widths) - len(GAP) * (len(widths) - 1), 0)
        rows = [GAP.join(_placed(line, widths, ())) for line in lines]
        blocks.append([title.center(len(rows[0])), *rows])
    first, *rest = [" | ".join(parts) for parts in zip(*blocks, strict=True)]
    return [first.rstrip(), *rest]


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, cells)) for cells in zip(*lines, strict=True)]


def _placed(line: Sequence[str], widths: Sequence[int], left: Sequence[int]) -> list[str]:
    return [
        f"{cell:<{width}}" if place in left else f"{cell:>{width}}"
        for place, (cell, width) in enumerate(zip(line, widths, strict=True))
    ]
