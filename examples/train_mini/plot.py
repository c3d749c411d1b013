"""The loss curve as an SVG: `python -m examples.train_mini.plot work/mini/losses.json docs/mini_loss.svg`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

WIDTH, HEIGHT, LEFT, BOTTOM = 720, 360, 50, 40
SMOOTH = 20  # steps of the running mean


def smoothed(losses: list[float]) -> list[float]:
    return [sum(losses[max(i - SMOOTH + 1, 0) : i + 1]) / min(i + 1, SMOOTH) for i in range(len(losses))]


def draw(losses: list[float]) -> str:
    top = max(losses)

    def point(step: int, loss: float) -> str:
        x = LEFT + (WIDTH - LEFT - 10) * step / max(len(losses) - 1, 1)
        y = 10 + (HEIGHT - BOTTOM - 10) * (1 - loss / top)
        return f"{x:.1f},{y:.1f}"

    def line(values: list[float], colour: str, width: float) -> str:
        points = " ".join(point(i, v) for i, v in enumerate(values))
        return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}"/>'

    marks = []
    for loss in range(int(top) + 1):
        y = point(0, loss).split(",")[1]
        marks.append(f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        marks.append(f'<text x="{LEFT - 8}" y="{y}" text-anchor="end" dominant-baseline="middle">{loss}</text>')
    for step in range(0, len(losses), 200):
        x = point(step, 0).split(",")[0]
        marks.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{step}</text>')
    title = f'<text x="{WIDTH / 2}" y="{HEIGHT - 6}" text-anchor="middle">step; loss in nats a token</text>'
    body = "\n".join([*marks, line(losses, "#bcd", 0.7), line(smoothed(losses), "#c33", 1.6), title])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(draw(json.loads(Path(sys.argv[1]).read_text())))
