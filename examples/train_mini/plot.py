"""The loss curve as an SVG: `python -m examples.train_mini.plot work/mini/losses.json docs/mini_loss.svg`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from brigade.bench.canvas import Canvas

WIDTH, HEIGHT, LEFT, BOTTOM = 720, 360, 50, 40
SMOOTH = 20  # steps of the running mean


def smoothed(losses: list[float]) -> list[float]:
    return [sum(losses[max(i - SMOOTH + 1, 0) : i + 1]) / min(i + 1, SMOOTH) for i in range(len(losses))]


def draw(losses: list[float]) -> str:
    top, sheet = max(losses), Canvas(WIDTH, HEIGHT)

    def point(step: int, loss: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - 10) * step / max(len(losses) - 1, 1)
        return x, 10 + (HEIGHT - BOTTOM - 10) * (1 - loss / top)

    for loss in range(int(top) + 1):
        _, y = point(0, loss)
        sheet.line((LEFT, y), (WIDTH - 10, y), stroke="#ddd")
        sheet.text(LEFT - 8, y, str(loss), "end", dominant_baseline="middle")
    for step in range(0, len(losses), 200):
        sheet.text(point(step, 0)[0], HEIGHT - BOTTOM + 18, str(step))
    for values, colour, width in ((losses, "#bcd", 0.7), (smoothed(losses), "#c33", 1.6)):
        sheet.line(*(point(step, loss) for step, loss in enumerate(values)), stroke=colour, stroke_width=width)
    sheet.text(WIDTH / 2, HEIGHT - 6, "step; loss in nats a token")
    return sheet.svg()


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(draw(json.loads(Path(sys.argv[1]).read_text())))
