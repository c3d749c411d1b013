"""The house itself: arrows point down, files stay readable, and the README's lines are true."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "brigade"
# From the top floor to the ground; a room may use those below it.
FLOORS = [
    "cli", "bench", "evaluate", "api", "assembly", "engine", "training", "checkpoint", "artifact", "model", "backends", "tokenizer",
    "batch", "config", "output_files", "text_table", "errors",
]  # fmt: skip


def floor(name: str) -> int | None:
    parts = name.split(".")
    return FLOORS.index(parts[1]) if len(parts) > 1 and parts[0] == "brigade" and parts[1] in FLOORS else None


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


FILES = sorted(path for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_point_down(path: Path) -> None:
    relative = path.relative_to(PACKAGE).with_suffix("")
    own = floor(".".join(["brigade", *relative.parts]))
    if own is None:  # the package's front door may name every room
        return
    for name in imports(path):
        used = floor(name)
        assert used is None or used >= own, f"{relative} reaches up to {name}"


BESIDE = sorted(path for folder in ("benchmarks", "examples") for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", BESIDE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_arrow_points_back_to_the_command_line(path: Path) -> None:
    """`brigade bench peers` calls the harness beside the package; what lies there knows nothing of the command line."""
    assert not [name for name in imports(path) if name.startswith("brigade.cli")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_is_one_reading(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 500


def test_the_readmes_four_steps_run(capsys) -> None:
    text = (ROOT / "README.md").read_text()
    block = text[text.index("from brigade import DynamicEngine") :].split("```")[0]
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_the_package_brings_its_data() -> None:
    for name in ("recipes/gpt-345m.yaml", "models/mini/model.safetensors", "models/mini/tokenizer.json"):
        assert (PACKAGE / name).exists()


def test_both_commands_of_the_readme_are_targets() -> None:
    targets = (ROOT / "Makefile").read_text()
    for target in ("demo:", "test:", "test-slow:"):
        assert f"\n{target}" in targets
    assert "make test" in (ROOT / ".ci/run").read_text()
