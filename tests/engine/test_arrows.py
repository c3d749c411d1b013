"""Inside the engine's rooms too arrows have one direction: no file reaches itself through what it imports, for types or late."""

from __future__ import annotations

from pathlib import Path

import pytest

import brigade
from tests.checkpoint.test_one_way import imported

PACKAGE = Path(brigade.__file__).parent
ENGINE = sorted(path for path in (PACKAGE / "engine").rglob("*.py") if path.name != "__init__.py")


def name_of(path: Path) -> str:
    return ".".join(["brigade", *path.relative_to(PACKAGE).with_suffix("").parts])


NAMES = {name_of(path) for path in ENGINE}


GRAPH = {name_of(path): imported(path, NAMES) for path in ENGINE}


def test_the_arrows_are_seen() -> None:
    """Guards the test below."""
    assert "brigade.engine.sampling.native" in GRAPH["brigade.engine.sampling.masses"]
    assert "brigade.engine.request" in GRAPH["brigade.engine.waiting"], "it is imported for types alone"


@pytest.mark.parametrize("start", sorted(GRAPH))
def test_no_file_reaches_itself(start: str) -> None:
    reached, ahead = set(), sorted(GRAPH[start])
    while ahead:
        name = ahead.pop()
        if name not in reached:
            reached.add(name)
            ahead += GRAPH[name]
    assert start not in reached, f"{start} is in a circle of {', '.join(sorted(n for n in reached if start in GRAPH[n]))}"
