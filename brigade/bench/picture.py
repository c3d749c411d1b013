"""The latency table as a picture: a bar for each batch size, first token and the rest, with the machine's floor across it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil, log10

from brigade.bench.latency_report import Row

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
    body = []

    def y(milliseconds: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - milliseconds / top)

    def words(x: float, at: float, text: str, anchor: str = "middle", more: str = "") -> None:
        body.append(f'<text x="{x:.1f}" y="{at:.1f}" text-anchor="{anchor}"{more}>{escape(text)}</text>')

    def box(x: float, low: float, high: float, width: float, colour: str) -> None:
        height = y(low) - y(high)
        body.append(f'<rect x="{x:.1f}" y="{y(high):.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>')

    for number in range(round(top / step) + 1):
        at = y(number * step)
        body.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>')
        words(LEFT - 8, at, f"{number * step:g}", "end", ' dominant-baseline="middle"')
    for place, row in enumerate(rows):
        middle, width = LEFT + lane * (place + 0.5), min(lane * 0.6, 90)
        first, total, least = (1e3 * v for v in (row.latency.first.median, row.latency.total.median, row.total.floor))
        box(middle - width / 2, 0, min(first, total), width, FIRST)
        box(middle - width / 2, min(first, total), total, width, REST)
        ends = f'x1="{middle - width * 0.62:.1f}" x2="{middle + width * 0.62:.1f}"'
        body.append(f'<line {ends} y1="{y(least):.1f}" y2="{y(least):.1f}" stroke="{FLOOR}" stroke-width="2.5"/>')
        words(middle, y(max(total, least)) - 6, f"{row.total.share:.0%}", more=f' fill="{FLOOR}"')
        words(middle, HEIGHT - BOTTOM + 17, str(row.latency.batch))
    words(WIDTH / 2, HEIGHT - 8, "batch size; milliseconds for the whole batch, median")
    words(LEFT, 18, title, "start", ' font-weight="bold"')
    words(LEFT, 35, note, "start", ' fill="#666" font-size="11"')
    at = LEFT
    for colour, text in (
        (FIRST, "until every first token"),
        (REST, "the tokens after it"),
        (FLOOR, "floor of this machine, and its share"),
    ):
        body.append(f'<rect x="{at}" y="44" width="10" height="10" fill="{colour}"/>')
        words(at + 15, 53, text, "start", ' font-size="11"')
        at += 40 + 6 * len(text)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">\n'
        '<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(body) + "\n</svg>\n"
    )
