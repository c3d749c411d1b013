"""Who talks to whom around a coordinator: `python -m docs.fleet_picture` writes docs/fleet.svg.

An arrow is what is said, a box is a process; below each box stands what happens when it dies.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from brigade.canvas import Canvas
from docs.rooms_picture import STYLE

PICTURE = Path(__file__).with_name("fleet.svg")
WIDTH, HEIGHT = 1180, 560


@dataclass(frozen=True, slots=True)
class Process:
    name: str
    words: tuple[str, ...]
    dies: tuple[str, ...]
    left: float
    top: float
    width: float = 250
    height: float = 66
    is_door: bool = False

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def middle(self) -> float:
        return self.top + self.height / 2


CLIENT = Process(
    "client", ("brigade.client, generate --connect", "keeps what it has heard"),
    ("dies: its requests stop at once, and are", "forgotten after client_grace"), 24, 90, is_door=True,
)  # fmt: skip
OPERATOR = Process("operator", ("brigade control", "pause, resume, drain, stop"), (), 24, 410, is_door=True)
COORDINATOR = Process(
    "coordinator", ("places requests, passes tokens on", "computes nothing, keeps no token"),
    ("dies: clients and replicas find it again;", "each request goes on from what its", "client has"), 465, 90,
)  # fmt: skip
JOURNAL = Process("journal", ("SQLite: what was accepted,", "and no token"), (), 520, 410)
REPLICAS = (
    Process(
        "replica", ("an engine of any layout", "keeps no request"),
        ("dies or hangs: its requests go on at", "another one, behind the tokens that", "were delivered"), 906, 90,
    ),
    Process("replica", ("the same numerics id, the same", "fingerprint: the same bits"), (), 906, 320),
    Process("launcher", ("starts replicas of this machine", "again when they end"), (), 906, 455),
)  # fmt: skip


def draw() -> str:
    sheet = Canvas(WIDTH, HEIGHT, STYLE, rx=10, class_="paper")
    sheet.text(WIDTH / 2, 36, "who talks to whom, and what happens when one of them dies", class_="title")
    for process in (CLIENT, OPERATOR, COORDINATOR, JOURNAL, *REPLICAS):
        sheet.box(process.left, process.top, process.width, process.height, rx=6, class_="door" if process.is_door else "room")
        sheet.text(process.left + process.width / 2, process.top + 22, process.name, class_="name")
        for row, words in enumerate(process.words):
            sheet.text(process.left + process.width / 2, process.top + 40 + 16 * row, words, class_="words")
        for row, words in enumerate(process.dies):
            sheet.text(process.left + process.width / 2, process.top + process.height + 20 + 16 * row, words, class_="legend")
    _both(sheet, CLIENT.right, COORDINATOR.left, CLIENT.middle, "requests, where I stand", "tokens, ends")
    _both(sheet, COORDINATOR.right, REPLICAS[0].left, COORDINATOR.middle, "request + delivered", "one frame a step")
    _elbow(sheet, COORDINATOR.right - 30, COORDINATOR.top + COORDINATOR.height, REPLICAS[1].left, REPLICAS[1].middle)
    _elbow(sheet, OPERATOR.right, OPERATOR.middle, COORDINATOR.left + 30, COORDINATOR.top + COORDINATOR.height, first_across=True)
    x = COORDINATOR.left + COORDINATOR.width / 2 + 50
    sheet.line((x, COORDINATOR.top + COORDINATOR.height + 62), (x, JOURNAL.top - 8), class_="arrow")
    _tip(sheet, x, JOURNAL.top, "down")
    sheet.text(x + 8, JOURNAL.top - 40, "before anything is sent", anchor="start", class_="words")
    x = REPLICAS[2].left + REPLICAS[2].width / 2
    sheet.line((x, REPLICAS[2].top), (x, REPLICAS[1].top + REPLICAS[1].height + 8), class_="arrow")
    _tip(sheet, x, REPLICAS[1].top + REPLICAS[1].height, "up")
    return sheet.svg()


def _both(sheet: Canvas, left: float, right: float, y: float, there: str, back: str) -> None:
    for shift, words, from_x, to_x, how in ((-12, there, left, right, "right"), (12, back, right, left, "left")):
        sheet.line((from_x, y + shift), (to_x, y + shift), class_="arrow")
        _tip(sheet, to_x, y + shift, how)
        sheet.text((left + right) / 2, y + (shift - 6 if shift < 0 else shift + 16), words, class_="words")


def _elbow(sheet: Canvas, x: float, y: float, to_x: float, to_y: float, first_across: bool = False) -> None:
    if first_across:
        sheet.line((x, y), (to_x, y), (to_x, to_y + 62), class_="arrow", stroke_linejoin="round")
        _tip(sheet, to_x, to_y + 54, "up")
    else:
        sheet.line((x, y + 62), (x, to_y), (to_x, to_y), class_="arrow", stroke_linejoin="round")
        _tip(sheet, to_x, to_y, "right")


def _tip(sheet: Canvas, x: float, y: float, how: str) -> None:
    dx, dy = {"right": (-9, 0), "left": (9, 0), "down": (0, -9), "up": (0, 9)}[how]
    across = (0, 4.5) if dy == 0 else (4.5, 0)
    sheet.shape((x, y), (x + dx - across[0], y + dy - across[1]), (x + dx + across[0], y + dy + across[1]), class_="tip")


if __name__ == "__main__":
    PICTURE.write_text(draw())
