"""A layout as a picture: a box for each rank, the tensor ranks of a stage beside each other, and the stages in the order in which a
token goes through them. Colours are the page's: its style sheet knows the classes."""

from __future__ import annotations

from brigade.canvas import Canvas
from brigade.config import ModelConfig
from brigade.mesh import Mesh, Part, Run

BOX_WIDTH, BOX_HEIGHT, GAP = 106, 56, 8
SIDE, HEAD = 10, 26  # the margin inside of a stage, and its line of words
BETWEEN = 22  # two stages: the way of the arrow
NARROWEST = 300  # what a stage's words need
TILE, SLIT = 9, 2  # of the small picture


def draw_layout(mesh: Mesh, config: ModelConfig, name: str) -> str:
    """Every rank with its layers and its share of them. `name`: of the layout, as its rows say it."""
    inside = mesh.tp * (BOX_WIDTH + GAP) - GAP
    width = max(inside + 2 * SIDE, NARROWEST)
    tall = HEAD + BOX_HEIGHT + SIDE
    height = mesh.pp * (tall + BETWEEN) - BETWEEN
    sheet = Canvas(width + 2, height + 2, class_="sheet")
    for stage in range(mesh.pp):
        top = 1 + stage * (tall + BETWEEN)
        if stage:
            _arrow(sheet, 1 + width / 2, top - BETWEEN, top)
        sheet.box(1, top, width, tall, rx=8, class_="stage")
        sheet.text(1 + SIDE, top + 18, _stage_words(mesh, stage, config), "start", class_="stage-words")
        for tp_rank in range(mesh.tp):
            rank = mesh.rank(stage, tp_rank)
            left = 1 + (width - inside) / 2 + tp_rank * (BOX_WIDTH + GAP)
            sheet.box(left, top + HEAD, BOX_WIDTH, BOX_HEIGHT, rx=5, class_="rank leader" if rank == 0 else "rank")
            for line, words in enumerate(_rank_words(mesh, rank, config)):
                sheet.text(left + BOX_WIDTH / 2, top + HEAD + 17 + 16 * line, words, class_="words" if line else "name")
    title = f"The layout {name}: {_count(mesh.world, 'rank')}, {_count(mesh.pp, 'stage')} of {_count(mesh.tp, 'tensor rank')}"
    return sheet.svg(title, describe(mesh, config), role="img", width=f"{width + 2:g}", height=f"{height + 2:g}")


def draw_small(mesh: Mesh, name: str) -> str:
    """The same boxes without words, as large as a line of text."""
    width, height = (count * (TILE + SLIT) - SLIT for count in (mesh.tp, mesh.pp))
    sheet = Canvas(width, height, class_="sheet")
    for rank in range(mesh.world):
        left, top = (place * (TILE + SLIT) for place in (mesh.tp_rank(rank), mesh.stage(rank)))
        sheet.box(left, top, TILE, TILE, rx=1.5, class_="tile leader" if rank == 0 else "tile")
    return sheet.svg(f"The layout {name}", role="img", width=f"{width:g}", height=f"{height:g}", class_="small")


def describe(mesh: Mesh, config: ModelConfig) -> str:
    """The picture in words."""
    stages = []
    for stage in range(mesh.pp):
        ranks = [", ".join(_rank_words(mesh, mesh.rank(stage, tp_rank), config)) for tp_rank in range(mesh.tp)]
        stages.append(f"{_stage_words(mesh, stage, config)}. {'; '.join(ranks)}.")
    return " ".join(stages)


def _stage_words(mesh: Mesh, stage: int, config: ModelConfig) -> str:
    part = mesh.part(mesh.rank(stage, 0), config.num_layers)
    held = ["word table"] * part.is_first + [_layers(part)] + ["norm, head"] * part.is_last
    return f"stage {stage}: {', '.join(held)}"


def _rank_words(mesh: Mesh, rank: int, config: ModelConfig) -> list[str]:
    """Its number, its layers, and which heads of them are its own."""
    part = mesh.part(rank, config.num_layers)
    heads = part.share(config.num_heads) if part.tp > 1 else (0, config.num_heads)
    return [f"rank {rank}{', leader' * (rank == 0)}", _layers(part), _run("head", heads)]


def _layers(part: Part) -> str:
    return _run("layer", (part.first_layer, part.last_layer))


def _run(what: str, run: Run) -> str:
    first, last = run[0], run[1] - 1
    return f"{what} {first}" if first == last else f"{what}s {first}–{last}"


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _arrow(sheet: Canvas, x: float, top: float, bottom: float) -> None:
    sheet.line((x, top + 2), (x, bottom - 7), class_="arrow")
    sheet.shape((x, bottom - 1), (x - 4.5, bottom - 8), (x + 4.5, bottom - 8), class_="tip")
