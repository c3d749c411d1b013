"""The map of the house: the rooms in their order, and who imports whom, read from the source itself.

`tests/test_house.py` holds the order, and `docs/rooms_picture.py` draws it. A new room is one line here.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "brigade"


@dataclass(frozen=True, slots=True)
class Room:
    """A folder or a file of the package, and its place in the picture: a floor, counted from the top, and `columns` of it from the
    first to the one behind the last. Files of the ground floor have no place of their own: it is drawn as one room."""

    name: str
    words: str
    floor: int | None = None
    columns: tuple[int, int] = (0, 0)


# From the top floor to the ground; a room may import those below it in this list, and no other.
ROOMS = (
    Room("cli", "one file for each command", 0, (0, 5)),
    Room("serve", "OpenAI's API over HTTP", 1, (4, 5)),
    Room("bench", "throughput, latency, floors", 1, (1, 2)),
    Room("evaluate", "perplexity, KL, ranking", 1, (0, 1)),
    Room("verify", "golden cases, one comparer, the matrix of settings", 1, (2, 4)),
    Room("replica", "works for a coordinator", 2, (4, 5)),
    Room("client", "asks a coordinator", 2, (3, 4)),
    Room("coordinator", "clients apart from replicas: messages, logic, journal", 3, (3, 5)),
    Room("api", "LLM and AsyncLLM", 3, (2, 3)),
    Room("assembly", "choices → source → plan → model → engine", 4, (2, 4)),
    Room("parallel", "ranks, stages, exchange", 5, (1, 2)),
    Room("engine", "thread, scheduler, sampling", 6, (1, 2)),
    Room("training", "one training step", 5, (3, 4)),
    Room("checkpoint", "folders, families, recipes", 6, (2, 3)),
    Room("artifact", "a model packed once", 7, (2, 3)),
    Room("model", "what the network is", 7, (3, 4)),
    Room("backends", "how it is computed: C++ kernels of csrc/, reference, KV cache", 8, (1, 4)),
    Room("tokenizer", "text and token ids", 8, (0, 1)),
    Room("batch", "the object that travels to the model"),
    Room("mesh", "how a model is cut over ranks, in numbers"),
    Room("config", "the network in numbers"),
    Room("output_files", "files that appear whole or not at all"),
    Room("text_table", "tables whose columns fit"),
    Room("canvas", "a sheet for drawing"),
    Room("collector", "the garbage collector, out of the way"),
    Room("errors", "what went wrong, in words"),
)
FLOORS = [room.name for room in ROOMS]


def place(module: str) -> int | None:
    """How far down the list the room of `brigade.room.anything` lies; None outside of every room."""
    parts = module.split(".")
    return FLOORS.index(parts[1]) if len(parts) > 1 and parts[0] == "brigade" and parts[1] in FLOORS else None


def module_name(path: Path) -> str:
    return ".".join(["brigade", *path.relative_to(PACKAGE).with_suffix("").parts])


def imports(path: Path) -> list[str]:
    """The modules that a file imports anywhere, also inside a function or for its types alone."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


@cache
def arrows() -> dict[str, set[str]]:
    """Of each room the other rooms that it imports."""
    found: dict[str, set[str]] = {name: set() for name in FLOORS}
    for path in PACKAGE.rglob("*.py"):
        own = place(module_name(path))
        if own is not None:
            used = {place(name) for name in imports(path)} - {own, None}
            found[FLOORS[own]] |= {FLOORS[floor] for floor in used if floor is not None}
    return found


def without_implied(found: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same arrows without those that a chain of others says too."""

    def reached(name: str) -> set[str]:
        return set().union(*({target} | reached(target) for target in found[name]))

    return {name: {t for t in targets if not any(t in reached(other) for other in targets)} for name, targets in found.items()}
