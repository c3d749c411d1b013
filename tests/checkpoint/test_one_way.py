"""Inside the rooms of models and checkpoints, too, imports run one way: no file reaches itself over others."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import brigade

PACKAGE = Path(brigade.__file__).parent


def imported(path: Path, known: set[str]) -> set[str]:
    """Modules of this package that a file names anywhere, in functions and for types as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & known


def graph(rooms: tuple[str, ...]) -> dict[str, set[str]]:
    files = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path
        for room in rooms
        for path in (PACKAGE / room).rglob("*.py")
        if path.name != "__init__.py"
    }
    return {name: imported(path, set(files)) for name, path in files.items()}


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """Files that are left once those without arrows to the rest are taken away, again and again."""
    left = dict(arrows)
    while free := [name for name, used in left.items() if not used & set(left)]:
        for name in free:
            del left[name]
    return sorted(left)


def test_a_circle_would_be_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "rooms", [("checkpoint",), ("model",), ("backends/reference", "backends/cpu"), ("checkpoint", "model", "artifact")]
)
def test_imports_run_one_way(rooms: tuple[str, ...]) -> None:
    arrows = graph(rooms)
    assert len(arrows) > 5 and any(arrows.values())
    assert circle(arrows) == []


def test_families_know_no_registry() -> None:
    arrows = graph(("checkpoint",))
    families = {name for name in arrows if name.startswith("brigade.checkpoint.families.")} - {
        "brigade.checkpoint.families.registry"
    }
    assert {"brigade.checkpoint.families.llama", "brigade.checkpoint.families.phi3"} <= families
    assert not [name for name in families if "brigade.checkpoint.families.registry" in arrows[name]]
