"""The house itself: arrows point down, files stay readable, and the README's lines are true."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.rooms import FLOORS, PACKAGE, imports, module_name, place

ROOT = PACKAGE.parent
FRONT_DOOR = PACKAGE / "__init__.py"  # may name every room
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != FRONT_DOOR)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_point_down(path: Path) -> None:
    own = place(module_name(path))
    assert own is not None, f"{path.name} belongs to no room; give it a line in docs/rooms.py"
    for name in imports(path):
        used = place(name)
        assert used is None or used >= own, f"{module_name(path)} reaches up to {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_is_one_reading(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 500


def test_every_room_of_the_map_is_there_and_explained() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    for name in FLOORS:
        room = f"{name}/" if (PACKAGE / name / "__init__.py").exists() else f"{name}.py"
        assert (PACKAGE / room).exists() and f"| `{room}`" in page, f"docs/architecture.md has no row for {room}"


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
