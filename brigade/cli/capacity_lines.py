"""What `brigade inspect` says of a layout on paper: two tables, in which ranks that are alike share a line, and a verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from brigade.text_table import columns

if TYPE_CHECKING:
    from brigade.assembly.capacity import Paper, RankOnPaper
    from brigade.assembly.line import Blueprint


def paper_facts(blueprint: Blueprint, paper: Paper, smallest: Paper | None) -> dict[str, Any]:
    config = blueprint.engine_config
    return {
        "of_each_rank": paper.memory, "batch": config.max_batch_size, "context": blueprint.limit,
        "step_tokens": config.max_step_tokens, "blocks": paper.num_blocks, "block_size": paper.block_size, "fits": paper.fits,
        "positions_that_fit": paper.positions_that_fit,
        "smallest_layout": None if smallest is None else {"tp": smallest.mesh.tp, "pp": smallest.mesh.pp},
    }  # fmt: skip


def paper_lines(blueprint: Blueprint, paper: Paper, smallest: Paper | None, given: bool) -> list[str]:
    """`given`: somebody said what memory there is."""
    mesh = paper.mesh
    lines = [] if mesh.world == 1 else [f"layout: tp {mesh.tp} x pp {mesh.pp}, {mesh.world} ranks; rank 0 leads"]
    lines += columns(_table(paper.ranks, _held(mesh.world)), indent="  ")
    for ranks in _alike(paper.ranks, [lambda one: ", ".join(one.repacked)]):
        if ranks[0].repacked:
            whose = "" if mesh.world == 1 else f"rank{'s' * (len(ranks) > 1)} {_named(ranks)}: "
            lines.append(
                f"  {whose}cut inside a panel of 32 outputs, so copied out of the artifact: {', '.join(ranks[0].repacked)}"
            )
    if mesh.world > 1:
        lines.append("what a rank gives to others for one token:")
        lines += columns(_table(paper.ranks, GIVEN), indent="  ")
    return [*lines, *_verdict(blueprint, paper, smallest, given)]


Column = tuple[str, Callable[["RankOnPaper"], str]]


def _held(world: int) -> list[Column]:
    alone: list[Column] = [
        ("weights", lambda one: _size(one.needs.weights)),
        ("cache", lambda one: _size(one.cache)),
        ("activations", lambda one: _size(one.needs.activations)),
        ("rotary tables", lambda one: _size(one.needs.tables)),
    ]
    whole: Column = ("in all", lambda one: _size(one.whole))
    if world == 1:
        return [*alone, whole]
    return [
        ("stage", lambda one: str(one.stage)),
        ("layers", lambda one: f"{one.layers[0]} to {one.layers[1]}"),
        ("heads", lambda one: str(one.heads)),
        ("kv heads", lambda one: str(one.kv_heads)),
        *alone,
        ("shared", lambda one: _size(one.needs.shared)),
        whole,
    ]


GIVEN: list[Column] = [
    ("word table", lambda one: _size(one.token.words)),
    ("layers", lambda one: _size(one.token.layers)),
    ("next stage", lambda one: _size(one.token.rows)),
    ("logits", lambda one: _size(one.token.logits)),
    ("or greedy", lambda one: _size(one.token.GREEDY if one.token.logits else 0)),
]


def _table(ranks: Sequence[RankOnPaper], made: Sequence[Column]) -> list[list[str]]:
    head, cells = ["ranks", *(title for title, _ in made)], [cell for _, cell in made]
    return [head, *([_named(alike), *(cell(alike[0]) for cell in cells)] for alike in _alike(ranks, cells))]


def _alike(ranks: Sequence[RankOnPaper], cells: Sequence[Callable[[RankOnPaper], str]]) -> list[list[RankOnPaper]]:
    """Ranks of which the same is said, in the order of their first ones."""
    found: dict[tuple[str, ...], list[RankOnPaper]] = {}
    for one in ranks:
        found.setdefault(tuple(cell(one) for cell in cells), []).append(one)
    return list(found.values())


def _named(ranks: Sequence[RankOnPaper]) -> str:
    """Runs of their numbers: `0`, `1-7`, `1-3,5`."""
    runs: list[list[int]] = []
    for one in ranks:
        if runs and one.rank == runs[-1][1] + 1:
            runs[-1][1] = one.rank
        else:
            runs.append([one.rank, one.rank])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _verdict(blueprint: Blueprint, paper: Paper, smallest: Paper | None, given: bool) -> list[str]:
    config, full = blueprint.engine_config, paper.fullest
    asked = f"{paper.num_blocks * paper.block_size} positions"
    if config.kv_blocks is None and config.kv_memory is None:
        asked = f"{config.max_batch_size} requests of {blueprint.limit} positions"
    place = "" if given else " that this machine has free" + (" for each rank" if paper.mesh.world > 1 else "")
    memory = f"{_size(paper.memory)}{place}"
    who = "it" if paper.mesh.world == 1 else f"rank {full.rank}"
    line = f"memory: steps of {config.max_step_tokens} tokens and a cache for {asked} "
    if paper.fits:
        line += f"fit into {memory}; {who} leaves {_size(paper.memory - full.whole)}"
    else:
        line += f"do not fit into {memory}; {who} needs {_size(full.whole)}"
        room = paper.positions_that_fit
        line += f"; a cache of {room} positions in all would fit" if room else ", and has no room for any cache"
    each = "" if given else ", were there a machine like this one for each rank"
    if smallest is None:
        return [line, f"smallest layout: none, not even with the most ranks that this model can have{each}"]
    mesh = smallest.mesh
    return [line, f"smallest layout that fits: tp {mesh.tp} x pp {mesh.pp}, {_ranks(mesh.world)}{each}"]


def _ranks(count: int) -> str:
    return "1 rank" if count == 1 else f"{count} ranks"


def _size(size: int) -> str:
    from brigade.engine.memory_plan import readable

    return "-" if size == 0 else readable(size)
