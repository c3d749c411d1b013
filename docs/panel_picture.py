"""How a weight matrix and the rows it meets lie in memory: `python -m docs.panel_picture` writes docs/panel.svg.

From left to right: the matrix, one of its panels, one pair of lines. Below: what a line holds for each kind of weights, and how the
rows on the left side of a product lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from brigade.canvas import Canvas
from docs.rooms_picture import STYLE

PICTURE = Path(__file__).with_name("panel.svg")
WIDTH, HEIGHT = 1180, 1086
LINE = 64  # bytes
BYTE = 7  # pixels of a byte of a line
BAR = 20  # pixels that a line is high


def _colours(low: str, low_edge: str, high: str, high_edge: str, row: str, row_edge: str, ink: str) -> str:
    return (
        f".low{{fill:{low};stroke:{low_edge}}}.high{{fill:{high};stroke:{high_edge}}}.row{{fill:{row};stroke:{row_edge}}}"
        f".cell,.head{{fill:{ink}}}"
    )


OWN = (
    ".cell{font:600 12px ui-monospace,Menlo,Consolas,monospace}.head{font:600 15px sans-serif}"
    + _colours("#d3e3f5", "#3d6fa8", "#f7e0c3", "#b0742e", "#d9ecd6", "#4c8a4a", "#26231d")
    + "@media (prefers-color-scheme: dark){"
    + _colours("#24405f", "#7fb2ea", "#5a4020", "#e0a860", "#274a2b", "#85c482", "#eceae4")
    + "}"
)


@dataclass(frozen=True, slots=True)
class Kind:
    """`lines` lines of 64 bytes hold some steps of K of all 32 outputs. `order`: these steps, as they follow each other in the word
    of one output. `nibbles`: a byte holds two outputs, in its lower half one of 0 to 15, in its upper half the one 16 after it."""

    name: str
    lines: int
    order: tuple[int, ...]
    words: tuple[str, ...]
    nibbles: bool = False


KINDS = (
    Kind("float32", 2, (0,), ("a line: 16 outputs x 1 of K", "16 pairs of lines: 16 of K")),
    Kind("bfloat16", 2, (0, 1), ("a line: 16 outputs x 2 of K", "16 pairs of lines: 32 of K")),
    Kind("int8", 2, (0, 1, 2, 3), ("a line: 16 outputs x 4 of K", "16 pairs of lines: 64 of K")),
    Kind("int8-weight", 1, (0, 1), ("a line: 32 outputs x 2 of K", "half a line for each half of the panel")),
    Kind("int4-int8", 1, (0, 1, 2, 3), ("a line: 32 outputs x 4 of K; before", "each group of 128 a line of multipliers"), True),
    Kind("int4", 1, (0, 2, 1, 3), ("a line: 32 outputs x 4 of K; steps 1 and 2", "change places. Scales lie apart"), True),
)


def draw() -> str:
    sheet = Canvas(WIDTH, HEIGHT, STYLE + OWN, rx=10, class_="paper")
    sheet.text(WIDTH / 2, 36, "how a weight matrix lies in memory, and the rows that it meets", class_="title")
    _matrix(sheet, 40, 100)
    _panel(sheet, 430, 100)
    _pair(sheet, 830, 100)
    _kinds(sheet, 40, 412)
    _rows(sheet, 40, 890)
    return sheet.svg("How a weight matrix lies in memory", "It is cut into panels of 32 outputs, and a panel into pairs of lines.")


def _matrix(sheet: Canvas, x: float, y: float) -> None:
    width, height, panels = 270, 36, 5
    sheet.text(x, y - 18, "the matrix [N, K]", anchor="start", class_="head")
    for panel in range(panels):
        top = y + panel * height
        if panel == 1:
            sheet.box(x, top, width, height / 2, class_="low")
            sheet.box(x, top + height / 2, width, height / 2, class_="high")
            sheet.text(x + width / 2, top + 13, "outputs 32 to 47", class_="cell")
            sheet.text(x + width / 2, top + 31, "outputs 48 to 63", class_="cell")
        else:
            sheet.box(x, top, width, height, class_="room")
            sheet.text(x + width / 2, top + 22, f"panel {panel}" if panel < panels - 1 else "...", class_="words")
    bottom = y + panels * height
    sheet.line((x, bottom + 16), (x + width - 8, bottom + 16), class_="arrow")
    _tip(sheet, x + width, bottom + 16)
    sheet.text(x + width / 2, bottom + 34, "K: what a sum goes over", class_="words")
    sheet.text(x, bottom + 62, "A row of the matrix makes one output.", anchor="start", class_="legend")
    sheet.text(x, bottom + 80, "32 outputs side by side are a panel.", anchor="start", class_="legend")
    _to(sheet, x + width + 6, y + 1.5 * height, 430 - 44)


def _panel(sheet: Canvas, x: float, y: float) -> None:
    width, pairs = 300, 4
    sheet.text(x, y - 18, "a panel: pairs of lines, along K", anchor="start", class_="head")
    for line in range(2 * pairs):
        top = y + line * 22 + line // 2 * 4
        sheet.box(x, top, width, BAR, class_="high" if line % 2 else "low")
        sheet.text(x + width / 2, top + 14, f"outputs {'16 to 31' if line % 2 else '0 to 15'} of the panel", class_="cell")
        sheet.text(x - 8, top + 14, f"{line * LINE}", anchor="end", class_="words")
    bottom = y + 2 * pairs * 22 + 16
    sheet.text(x + width / 2, bottom + 8, "...", class_="cell")
    sheet.text(x - 8, y - 6, "byte", anchor="end", class_="words")
    sheet.text(x, bottom + 46, "A panel is one run of memory, read from its first byte", anchor="start", class_="legend")
    sheet.text(x, bottom + 64, "to its last. 16 pairs are two tiles: 2 KB.", anchor="start", class_="legend")
    _to(sheet, x + width + 6, y + BAR, 830 - 14)


def _pair(sheet: Canvas, x: float, y: float) -> None:
    """One pair of lines, and how a step of the product uses it."""
    cell, count = 62, 5
    sheet.text(x, y - 18, "a pair of lines: 2 x 16 words", anchor="start", class_="head")
    for line, name in enumerate(("low", "high")):
        top = y + line * 30
        for word in range(count):
            last = word == count - 1
            output = 16 * line + (15 if last else word)
            sheet.box(x + word * cell, top, cell, 26, class_=name)
            sheet.text(x + (word + 0.5) * cell, top + 17, "..." if word == count - 2 else f"{output}", class_="cell")
    sheet.text(x, y + 80, "A word (4 bytes) has the next steps of its output.", anchor="start", class_="legend")
    top = y + 104
    for word in range(count):
        sheet.box(x + word * cell, top, cell, 26, class_="row")
        sheet.text(x + (word + 0.5) * cell, top + 17, "..." if word == count - 2 else "row", class_="cell")
    for number, words in enumerate((
        "The same steps of K of one row are copied into all", "words of a register. It is multiplied with a whole",
        "line and added to 16 sums: of float32 numbers by one", "instruction of AVX-512, or by two of AVX2. So each",
        "output has a word, and a sum, of its own.",
    )):  # fmt: skip
        sheet.text(x, top + 50 + 18 * number, words, anchor="start", class_="legend")


def _kinds(sheet: Canvas, x: float, y: float) -> None:
    bar, zoom, told = x + 116, x + 616, x + 840
    sheet.line((x, y - 34), (WIDTH - x, y - 34), class_="arrow", stroke_opacity=0.35)
    sheet.text(x, y - 8, "what the lines hold", anchor="start", class_="head")
    sheet.text(bar + LINE * BYTE / 2, y - 8, "the first 64 or 128 bytes", class_="words")
    sheet.text(zoom + 100, y - 8, "the first word: steps k of K", class_="words")
    top = y + 8
    for kind in KINDS:
        height = 2 * BAR + 4 if kind.lines == 2 else 34
        middle = top + height / 2
        sheet.text(x, middle + 5, kind.name, anchor="start", class_="name")
        _bars(sheet, kind, bar, top)
        _word(sheet, kind, zoom, middle - 17)
        for row, words in enumerate(kind.words):
            sheet.text(told, middle - 4 + 17 * row, words, anchor="start", class_="legend")
        top += height + 28
    sheet.box(x, top - 4, 14, 14, class_="low")
    sheet.text(x + 22, top + 8, "outputs 0 to 15 of the panel", anchor="start", class_="legend")
    sheet.box(x + 220, top - 4, 14, 14, class_="high")
    upper = "outputs 16 to 31; of nibbles (4 bits) they are the upper halves of the bytes"
    sheet.text(x + 242, top + 8, upper, anchor="start", class_="legend")


def _bars(sheet: Canvas, kind: Kind, x: float, top: float) -> None:
    if kind.nibbles:
        for word in range(16):
            sheet.box(x + word * 4 * BYTE, top, 4 * BYTE, 17, class_="low")
            sheet.box(x + word * 4 * BYTE, top + 17, 4 * BYTE, 17, class_="high")
        return
    if kind.lines == 1:  # both halves of the panel in one line
        for word in range(32):
            sheet.box(x + word * 2 * BYTE, top, 2 * BYTE, 34, class_="low" if word < 16 else "high")
        return
    for line, name in enumerate(("low", "high")):
        for word in range(16):
            sheet.box(x + word * 4 * BYTE, top + line * (BAR + 4), 4 * BYTE, BAR, class_=name)


def _word(sheet: Canvas, kind: Kind, x: float, top: float) -> None:
    """Four bytes are 200 pixels."""
    cell = 50 if kind.nibbles or kind.lines == 1 else 200 / len(kind.order)
    halves = (("low", 0.0), ("high", 17.0)) if kind.nibbles else (("low", 0.0),)
    for name, down in halves:
        height = 17 if kind.nibbles else 34
        for place, step in enumerate(kind.order):
            sheet.box(x + place * cell, top + down, cell, height, class_=name)
            sheet.text(x + (place + 0.5) * cell, top + down + height / 2 + 4, f"k{step}", class_="cell")


def _rows(sheet: Canvas, x: float, y: float) -> None:
    """The left operand: groups of 16 rows, in each its tiles along K."""
    sheet.line((x, y - 34), (WIDTH - x, y - 34), class_="arrow", stroke_opacity=0.35)
    sheet.text(x, y - 8, "the rows (left operand): groups of 16", anchor="start", class_="head")
    width, height, tiles = 64, 56, 4
    for group in range(2):
        for tile in range(tiles):
            left, top = x + 96 + tile * (width + 4), y + 12 + group * (height + 8)
            sheet.box(left, top, width, height, class_="row" if group == 0 and tile == 0 else "room")
            number = group * tiles + tile
            sheet.text(left + width / 2, top + 26, f"tile {tile}", class_="cell")
            sheet.text(left + width / 2, top + 44, f"at {number} KB", class_="words")
        sheet.text(x, y + 44 + group * (height + 8), f"rows {16 * group} to {16 * group + 15}", anchor="start", class_="words")
    sheet.line((x + 96, y + 154), (x + 96 + tiles * (width + 4) - 12, y + 154), class_="arrow")
    _tip(sheet, x + 96 + tiles * (width + 4) - 4, y + 154)
    sheet.text(x + 96 + tiles * (width + 4) / 2, y + 172, "K (here four tiles long)", class_="words")
    _to(sheet, x + 96 + tiles * (width + 4) + 6, y + 40, x + 480 - 14)
    tile, line = x + 480, 250
    sheet.text(tile, y - 8, "a tile: a line of each of 16 rows", anchor="start", class_="head")
    for row in range(6):
        top = y + 12 + row * 23
        sheet.box(tile, top, line, BAR, class_="row")
        name = ("row 0", "row 1", "row 2", "row 3", "...", "row 15")[row]
        sheet.text(tile + line / 2, top + 14, name if row == 4 else f"{name}: 64 bytes", class_="cell")
    told = tile + line + 36
    for number, words in enumerate((
        "It spans as much of K as a tile of the panel:", "float32 16, bfloat16 32, int8 64 numbers.", "",
        "Paths without bfloat16 instructions keep the", "bfloat16 rows as floats: 16 of K in a tile,",
        "so two of them stand for one.",
    )):  # fmt: skip
        sheet.text(told, y + 26 + 19 * number, words, anchor="start", class_="legend")


def _to(sheet: Canvas, x: float, y: float, end: float) -> None:
    sheet.line((x, y), (end - 8, y), class_="arrow")
    _tip(sheet, end, y)


def _tip(sheet: Canvas, x: float, y: float) -> None:
    """The end of an arrow; all go to the right."""
    sheet.shape((x, y), (x - 9, y - 4.5), (x - 9, y + 4.5), class_="tip")


if __name__ == "__main__":
    PICTURE.write_text(draw())
