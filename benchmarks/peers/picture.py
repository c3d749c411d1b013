"""The table of medians as a picture: for each cell a bar for each engine, the shortest first, ours in colour."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.peers.figures import Figures, is_ours
from benchmarks.peers.works import Cell
from brigade.canvas import Canvas

WIDTH, TOP, NOTE, ROW, GAP, FOOT = 760, 60, 14, 17, 40, 12
NAME, FIGURE = 190, 56  # room for an engine's name and for its figure
COLOURS = {16: "#47a", 8: "#3a7", 4: "#c83"}  # of ours, by bits of a weight; wider ones are drawn as 16
PEER = "#bbb"


def draw(figures: Figures, cells: Sequence[Cell], title: str, note: str) -> str:
    """Two cells side by side, below the title and the lines of the note. Every bar is a time, whatever unit the figure beside it
    has; the longest of a cell fills its lane."""
    shown = [(cell, _times(figures, cell)) for cell in cells]
    shown = [(cell, times) for cell, times in shown if times]
    pairs = [shown[i : i + 2] for i in range(0, len(shown), 2)]
    heights = [GAP + ROW * max(len(times) for _, times in pair) for pair in pairs]
    notes = note.split("\n")
    top = TOP + NOTE * len(notes)
    sheet = Canvas(WIDTH, top + sum(heights) + FOOT)
    sheet.text(12, 20, title, "start", font_weight="bold")
    for place, line in enumerate(notes):
        sheet.text(12, 37 + place * NOTE, line, "start", fill="#666", font_size=11)
    sheet.legend(12, top - 30, [*((colour, f"ours, {bits} bits") for bits, colour in COLOURS.items()), (PEER, "peers")])
    for pair, height in zip(pairs, heights, strict=True):
        for place, (cell, times) in enumerate(pair):
            _lane(sheet, 12 + place * WIDTH / 2, top, cell, times, figures.bits)
        top += height
    told = [f"{cell.name}: " + ", ".join(f"{label} {cell.figure(time)}" for label, time in times) for cell, times in shown]
    return sheet.svg(title, "; ".join(told))


def _times(figures: Figures, cell: Cell) -> list[tuple[str, float]]:
    """Engines and their medians, the fastest first."""
    known = [(label, figures.seconds(label, cell)) for label in figures.labels]
    return sorted(((label, seconds) for label, seconds in known if seconds is not None), key=lambda pair: pair[1])


def _lane(sheet: Canvas, left: float, top: float, cell: Cell, times: Sequence[tuple[str, float]], bits: dict[str, int]) -> None:
    room = WIDTH / 2 - NAME - FIGURE - 24
    sheet.text(left, top + 14, _heading(cell), "start", font_weight="bold")
    for place, (label, seconds) in enumerate(times):
        y, long = top + 22 + place * ROW, room * seconds / times[-1][1]
        colour = COLOURS[min(bits[label], 16)] if is_ours(label) else PEER
        sheet.text(left + NAME - 6, y + 10, label, "end", font_size=11, font_weight="bold" if is_ours(label) else "normal")
        sheet.box(left + NAME, y, long, ROW - 4, fill=colour)
        sheet.text(left + NAME + long + 4, y + 10, cell.figure(seconds), "start", font_size=11)


def _heading(cell: Cell) -> str:
    unit = {"latency": "milliseconds", "throughput": "tokens a second", "stream": "seconds"}[cell.work]
    name = {"latency": f"batch {cell.batch}", "throughput": f"{cell.batch} requests", "stream": "one stream"}[cell.work]
    return f"{name}: {cell.prompt} ids in, {cell.new} out, {unit}"
