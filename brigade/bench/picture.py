"""The latency table as a picture: a bar for each batch size, first token and the rest, with the machine's floor across it."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log10

from brigade.bench.latency_report import Row
from brigade.canvas import Canvas

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 400, 64, 12, 64, 44
FIRST, REST, FLOOR = "#47a", "#acd", "#c33"


def nice_step(greatest: float, wanted: int = 6) -> float:
    """1, 2 or 5 times a power of ten, for about so many lines."""
    rough = greatest / wanted
    power = 10.0 ** ceil(log10(rough))
    return next(step for step in (power / 5, power / 2, power) if step >= rough * 0.999)


def draw(rows: Sequence[Row], title: str, note: str) -> str:
    """Heights are medians in milliseconds; `title` and `note` are plain text."""
    greatest = 1e3 * max(max(row.latency.total.median, row.total.floor) for row in rows)
    step = nice_step(greatest)
    top = step * ceil(greatest / step * 0.9999)
    lane = (WIDTH - LEFT - RIGHT) / len(rows)
    sheet = Canvas(WIDTH, HEIGHT)

    def y(milliseconds: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - milliseconds / top)

    def bar(x: float, low: float, high: float, width: float, colour: str) -> None:
        sheet.box(x, y(high), width, y(low) - y(high), fill=colour)

    for number in range(round(top / step) + 1):
        at = y(number * step)
        sheet.line((LEFT, at), (WIDTH - RIGHT, at), stroke="#ddd")
        sheet.text(LEFT - 8, at, f"{number * step:g}", "end", dominant_baseline="middle")
    for place, row in enumerate(rows):
        middle, width = LEFT + lane * (place + 0.5), min(lane * 0.6, 90)
        first, total, least = (1e3 * v for v in (row.latency.first.median, row.latency.total.median, row.total.floor))
        bar(middle - width / 2, 0, min(first, total), width, FIRST)
        bar(middle - width / 2, min(first, total), total, width, REST)
        sheet.line((middle - width * 0.62, y(least)), (middle + width * 0.62, y(least)), stroke=FLOOR, stroke_width=2.5)
        sheet.text(middle, y(max(total, least)) - 6, f"{row.total.share:.0%}", fill=FLOOR)
        sheet.text(middle, HEIGHT - BOTTOM + 17, str(row.latency.batch))
    sheet.text(WIDTH / 2, HEIGHT - 8, "batch size; milliseconds for the whole batch, median")
    sheet.text(LEFT, 18, title, "start", font_weight="bold")
    sheet.text(LEFT, 35, note, "start", fill="#666", font_size=11)
    parts = ((FIRST, "until every first token"), (REST, "the tokens after it"), (FLOOR, "floor of this machine, and its share"))
    sheet.legend(LEFT, 44, parts)
    return sheet.svg()
