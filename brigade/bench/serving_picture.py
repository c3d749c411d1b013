"""The times of `bench serve` as a picture: for each kind of time, which share of requests had at most that."""

from __future__ import annotations

from collections.abc import Sequence
from math import log10

from brigade.bench.serving import KINDS, Served
from brigade.canvas import Canvas

PANEL, HEIGHT, LEFT, GAP, TOP, BOTTOM = 300, 360, 56, 36, 84, 48
COLOURS = ("#47a", "#c33", "#393", "#a5c", "#d80", "#088")


def draw(all_served: Sequence[Served], title: str) -> str:
    width = LEFT + len(KINDS) * (PANEL + GAP)
    sheet = Canvas(width, HEIGHT)
    sheet.text(LEFT, 20, title, "start", font_weight="bold")
    loads = ((COLOURS[number % len(COLOURS)], str(served.load)) for number, served in enumerate(all_served))
    sheet.legend(LEFT, 32, loads, letter=6.5)
    for place, kind in enumerate(KINDS):
        _panel(sheet, LEFT + place * (PANEL + GAP), kind, [served.values(kind) for served in all_served])
    for share in (0, 50, 90, 100):
        sheet.text(LEFT - 8, _y(share / 100), f"{share}%", "end", dominant_baseline="middle")
    return sheet.svg(title=title)


def _y(share: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)


def _panel(sheet: Canvas, left: float, kind: str, all_values: Sequence[Sequence[float]]) -> None:
    """Times grow by powers of ten, so that the fast and the slow are seen in one."""
    found = [max(value, 1e-6) for values in all_values for value in values]
    sheet.text(left + PANEL / 2, TOP - 12, f"{kind}, milliseconds", font_size=12)
    if not found:
        return
    low, high = log10(min(found)), max(log10(max(found)), log10(min(found)) + 0.1)

    def x(value: float) -> float:
        return left + PANEL * (log10(max(value, 1e-6)) - low) / (high - low)

    for share in (0, 0.5, 0.9, 1):
        sheet.line((left, _y(share)), (left + PANEL, _y(share)), stroke="#ddd")
    for power in range(-6, 6):
        for digit in (1, 2, 5):
            value = digit * 10.0**power
            if min(found) <= value <= max(found):
                sheet.line((x(value), TOP), (x(value), HEIGHT - BOTTOM), stroke="#eee")
                sheet.text(x(value), HEIGHT - BOTTOM + 16, f"{1e3 * value:g}", font_size=10)
    for number, values in enumerate(all_values):
        ordered = sorted(values)
        points = [(x(value), _y((rank + 1) / len(ordered))) for rank, value in enumerate(ordered)]
        if points:
            sheet.line((points[0][0], _y(0)), *points, stroke=COLOURS[number % len(COLOURS)], stroke_width=1.8)
