"""The rooms of the package as a house: `python -m docs.rooms_picture` writes docs/rooms.svg.

The arrows are the imports of the source. Those that follow from others are left out, else nobody could read it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from brigade.canvas import Canvas
from docs.rooms import ROOMS, arrows, without_implied

PICTURE = Path(__file__).with_name("rooms.svg")

COLUMN, FLOOR, GAP = 204, 100, 44  # a column's and a floor's size, and how much of a floor is left to the arrows
COLUMNS, SIDE, BETWEEN, ROOF, FOOT = 5, 22, 14, 74, 40  # `BETWEEN` two rooms of one floor; `FOOT` holds the legend
PORT = 26  # between two arrows that meet a room in the same column
ACROSS = 9  # between two that run across one above the other
GROUND = "ground"
LEGEND = "An arrow means “imports”. Arrows that follow from others are left out. Callers come in by the blue rooms."

SHAPES = (
    ".name{font:600 15px ui-monospace,Menlo,Consolas,monospace}.words,.legend{font:12px sans-serif}"
    ".title{font:600 17px sans-serif}.arrow{stroke-width:1.6}"
)


def colours(paper: str, wall: str, room: str, door: str, edge: str, ink: str, soft: str, arrow: str) -> str:
    return (
        f".paper{{fill:{paper}}}.house{{fill:{wall};stroke:{edge}}}.room{{fill:{room};stroke:{edge}}}"
        f".door{{fill:{door};stroke:{arrow}}}.name,.title{{fill:{ink}}}.words,.legend{{fill:{soft}}}"
        f".arrow{{stroke:{arrow}}}.tip{{fill:{arrow}}}"
    )


LIGHT = colours("#fbfaf7", "#efece4", "#ffffff", "#dce8f5", "#b9b2a3", "#26231d", "#5f594f", "#3d6fa8")
DARK = colours("#16181c", "#1f2329", "#2a2f37", "#26384d", "#4b525d", "#eceae4", "#b0b5bd", "#7fb2ea")
STYLE = f"{SHAPES}{LIGHT}@media (prefers-color-scheme: dark){{{DARK}}}"


@dataclass(frozen=True, slots=True)
class Box:
    """A room on the sheet."""

    label: str
    words: str
    floor: int
    columns: tuple[int, int]

    @property
    def left(self) -> float:
        return SIDE + COLUMN * self.columns[0] + BETWEEN / 2

    @property
    def right(self) -> float:
        return SIDE + COLUMN * self.columns[1] - BETWEEN / 2

    @property
    def top(self) -> float:
        return ROOF + FLOOR * self.floor + GAP / 2

    @property
    def bottom(self) -> float:
        return self.top + FLOOR - GAP


Point = tuple[float, float]


def boxes() -> dict[str, Box]:
    placed = {room.name: Box(f"{room.name}/", room.words, room.floor, room.columns) for room in ROOMS if room.floor is not None}
    below = max(box.floor for box in placed.values()) + 1
    files = " · ".join(f"{room.name}.py" for room in ROOMS if room.floor is None)
    return placed | {GROUND: Box(files, "every room may use them", below, (0, COLUMNS))}


def drawn_arrows() -> dict[str, set[str]]:
    """Between the boxes: the files of the ground floor are one."""
    on_ground = {room.name for room in ROOMS if room.floor is None}
    found = arrows()
    merged = {name: {GROUND if t in on_ground else t for t in targets} for name, targets in found.items() if name not in on_ground}
    return without_implied(merged | {GROUND: set()})


def centre(column: int) -> float:
    return SIDE + COLUMN * (column + 0.5)


def route(source: Box, target: Box, before: int = 0) -> list[Point]:
    """Straight down where one stands above the other; else down, across under the own floor, and down. An arrow that goes across
    leaves and arrives beside the middle, which belongs to the straight one, and beside those that came from this side `before`."""
    low, high = max(source.columns[0], target.columns[0]), min(source.columns[1], target.columns[1])
    if low < high:
        x = (centre(low) + centre(high - 1)) / 2
        return [(x, source.bottom), (x, target.top)]
    if high <= source.columns[0]:  # to the left
        start, end = centre(source.columns[0]) - PORT, centre(target.columns[1] - 1) + PORT * (1 + before)
    else:
        start, end = centre(source.columns[1] - 1) + PORT, centre(target.columns[0]) - PORT * (1 + before)
    across = source.bottom + GAP / 2 + ACROSS * before
    return [(start, source.bottom), (start, across), (end, across), (end, target.top)]


def lines() -> dict[tuple[str, str], list[Point]]:
    """The way of every arrow, by its two rooms."""
    placed, found = boxes(), {}
    arrived: Counter[tuple[str, bool]] = Counter()
    for name, targets in drawn_arrows().items():
        for target in sorted(targets):
            from_left = placed[name].columns[0] < placed[target].columns[0]
            found[name, target] = way = route(placed[name], placed[target], arrived[target, from_left])
            arrived[target, from_left] += len(way) > 2
    return found


def draw() -> str:
    placed = boxes()
    width, ground = 2 * SIDE + COLUMN * COLUMNS, placed[GROUND].bottom + GAP / 2
    sheet = Canvas(width, ground + FOOT, STYLE, rx=10, class_="paper")
    left, right = SIDE / 2, width - SIDE / 2
    sheet.shape(
        (left, ground), (left, ROOF), (width / 2, 12), (right, ROOF), (right, ground), class_="house", stroke_linejoin="round"
    )
    sheet.text(width / 2, ROOF - 14, "brigade", class_="title")
    for way in lines().values():
        *_, (x, y) = way
        sheet.line(*way[:-1], (x, y - 6), class_="arrow", stroke_linejoin="round")
        sheet.shape((x, y), (x - 4.5, y - 9), (x + 4.5, y - 9), class_="tip")
    for box in placed.values():
        middle = (box.left + box.right) / 2
        kind = "door" if box.label in ("cli/", "api/") else "room"
        sheet.box(box.left, box.top, box.right - box.left, box.bottom - box.top, rx=6, class_=kind)
        sheet.text(middle, box.top + 24, box.label, class_="name")
        sheet.text(middle, box.top + 43, box.words, class_="words")
    sheet.text(width / 2, ground + 25, LEGEND, class_="legend")
    return sheet.svg()


if __name__ == "__main__":
    PICTURE.write_text(draw())
