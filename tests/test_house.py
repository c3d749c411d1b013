"""The house itself: arrows point down, files stay readable, and the README's lines are true."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from brigade.cli.main import COMMANDS as CLI
from brigade.cli.main import make_parser
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


BESIDE = sorted(path for folder in ("benchmarks", "examples") for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", BESIDE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_arrow_points_back_to_the_command_line(path: Path) -> None:
    """`brigade bench peers` calls the harness beside the package; what lies there knows nothing of the command line."""
    assert not [name for name in imports(path) if name == "brigade.cli" or name.startswith("brigade.cli.")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_is_one_reading(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 500


def test_every_room_of_the_map_is_there_and_explained() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    for name in FLOORS:
        room = f"{name}/" if (PACKAGE / name / "__init__.py").exists() else f"{name}.py"
        assert (PACKAGE / room).exists() and f"| `{room}`" in page, f"docs/architecture.md has no row for {room}"


README = (ROOT / "README.md").read_text()
PYTHON = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "from brigade import" in block]
COMMANDS = [line for line in README.splitlines() if line.startswith("brigade ")]


@pytest.mark.parametrize("block", PYTHON, ids=["one object", "four steps"])
def test_the_readmes_python_runs(capsys, block: str) -> None:
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("line", COMMANDS)
def test_the_readmes_commands_are_understood(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    assert make_parser(words[0]).parse_args(words).command == words[0]


def test_the_readme_names_every_command() -> None:
    assert {line.split()[1] for line in COMMANDS} == set(CLI)


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Links between pages, and the paths of files that a page names."""
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target
    for named in re.findall(r"`((?:tests|benchmarks|examples|docs|csrc|brigade)/[\w/.]*)`", text):
        assert (ROOT / named).exists(), named


def test_the_package_brings_its_data() -> None:
    for name in ("recipes/gpt-345m.yaml", "models/mini/model.safetensors", "models/mini/tokenizer.json", "verify/page.html"):
        assert (PACKAGE / name).exists()


def test_both_commands_of_the_readme_are_targets() -> None:
    targets = (ROOT / "Makefile").read_text()
    for target in ("demo:", "test:", "test-slow:"):
        assert f"\n{target}" in targets
    assert "make test" in (ROOT / ".ci/run").read_text()
