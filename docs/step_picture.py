"""Who sends what to whom in one step of tp 2 x pp 2: `python -m docs.step_picture` writes docs/step.svg.

A column is a rank, time goes down. Boxes are what a rank computes, arrows what travels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from brigade.canvas import Canvas
from docs.rooms_picture import STYLE

PICTURE = Path(__file__).with_name("step.svg")

COLUMN, ROW, SIDE, TOP = 214, 74, 24, 92  # a rank's column, a moment's row, the margins
BOX_WIDTH, BOX_HEIGHT = 176, 44
RANKS = (
    "rank 2: stage 0, tensor rank 0",
    "rank 3: stage 0, tensor rank 1",
    "rank 0: stage 1, leader",
    "rank 1: stage 1, tensor rank 1",
)
LEADER = 2  # its column


@dataclass(frozen=True, slots=True)
class Work:
    """What a column computes at a moment."""

    column: int
    row: int
    words: str
    more: str = ""


@dataclass(frozen=True, slots=True)
class Sent:
    """From one column to another, between two moments or (an exchange: both ways) beside one."""

    source: int
    target: int
    row: int
    words: str
    both_ways: bool = False


WORK = (
    Work(LEADER, 0, "schedule", "who computes what"),
    *(Work(column, 2, "word table", "the own rows of it") for column in (0, 1)),
    *(Work(column, 3, "layers of stage 0", "own heads, own MLP share") for column in (0, 1)),
    *(Work(column, 5, "layers of stage 1", "own heads, own MLP share") for column in (2, 3)),
    *(Work(column, 6, "head", "own share of the ids") for column in (2, 3)),
    Work(LEADER, 7, "sample", "requests never leave here"),
)
SENT = (
    *(Sent(LEADER, column, 1, "step: ids, positions, blocks" if column == 0 else "") for column in (0, 1, 3)),
    Sent(0, 1, 2, "rows", True),
    Sent(0, 1, 3, "2 a layer", True),
    Sent(0, 2, 4, "rows of the hidden state"),
    Sent(1, 3, 4, ""),
    Sent(2, 3, 5, "2 a layer", True),
    Sent(3, 2, 6, "logits"),
)


def centre(column: int) -> float:
    return SIDE + COLUMN * (column + 0.5)


def top(row: int) -> float:
    return TOP + ROW * row


def draw() -> str:
    rows = max(work.row for work in WORK) + 1
    width, height = 2 * SIDE + COLUMN * len(RANKS), top(rows) + 20
    sheet = Canvas(width, height, STYLE, rx=10, class_="paper")
    sheet.text(width / 2, 32, "one step, tp 2 x pp 2", class_="title")
    for column, words in enumerate(RANKS):
        sheet.box(SIDE + COLUMN * column + 5, 48, COLUMN - 10, height - 62, rx=8, class_="house")
        sheet.text(centre(column), 70, words, class_="legend")
    for sent in SENT:
        _arrow(sheet, sent)
    for work in WORK:
        x, y = centre(work.column) - BOX_WIDTH / 2, top(work.row)
        kind = "door" if work.column == LEADER and work.row in (0, 7) else "room"
        sheet.box(x, y, BOX_WIDTH, BOX_HEIGHT, rx=6, class_=kind)
        sheet.text(centre(work.column), y + 19, work.words, class_="name", font_size=13)
        sheet.text(centre(work.column), y + 35, work.more, class_="words")
    return sheet.svg()


def _arrow(sheet: Canvas, sent: Sent) -> None:
    right = sent.target > sent.source
    if sent.both_ways or abs(sent.target - sent.source) == 1 and sent.row == 6:  # beside two boxes, in the gap between them
        start = centre(sent.source) + (1 if right else -1) * BOX_WIDTH / 2
        end = centre(sent.target) - (1 if right else -1) * BOX_WIDTH / 2
        y = top(sent.row) + BOX_HEIGHT / 2
        sheet.line((start, y), (end, y), class_="arrow")
        _tip(sheet, end, y, right)
        if sent.both_ways:
            _tip(sheet, start, y, not right)
        sheet.text((start + end) / 2, y + (-32 if sent.both_ways else 40), sent.words, class_="words")
        return
    if sent.row == 1:  # an order, to wherever the rank's work begins
        shift, begin, end_row = (
            (-60 if sent.target == 3 else 0),
            top(0) + BOX_HEIGHT,
            min(w.row for w in WORK if w.column == sent.target),
        )
        words_at = centre(0) + COLUMN / 2
    else:
        shift, begin, end_row = (9 if sent.source else -9), top(sent.row - 1) + BOX_HEIGHT, sent.row + 1
        words_at = centre(2) - COLUMN / 2 + 40
    x, end = centre(sent.source) + (shift if sent.row == 4 else 0), centre(sent.target) + shift
    y, down = top(sent.row) + (12 if sent.row == 1 else 14 + shift), top(end_row)
    sheet.line((x, begin), (x, y), (end, y), (end, down - 8), class_="arrow", stroke_linejoin="round")
    sheet.shape((end, down), (end - 4.5, down - 9), (end + 4.5, down - 9), class_="tip")
    sheet.text(words_at, y - 6, sent.words, class_="words")


def _tip(sheet: Canvas, x: float, y: float, right: bool) -> None:
    back = -9 if right else 9
    sheet.shape((x, y), (x + back, y - 4.5), (x + back, y + 4.5), class_="tip")


if __name__ == "__main__":
    PICTURE.write_text(draw())
