"""Installing: with the kernels, without a compiler, with one that does not know every instruction, and from a source archive."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from brigade.backends.cpu.library import available_paths, default_path, find_kernels

ROOT = Path(__file__).parents[1]
PARTS = ("brigade", "csrc", "setup.py", "pyproject.toml", "README.md", "MANIFEST.in")
GENERATE = ("-m", "brigade.cli.main", "generate", "--max-tokens", "4", "--kv-blocks", "16", "--temperature", "0", "def f(")
pytestmark = pytest.mark.slow
needs_compiler = pytest.mark.skipif(find_kernels() is None, reason="no C++ compiler on this machine")


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    settings = {name: value for name, value in os.environ.items() if name not in ("BRIGADE_KERNELS", "PYTHONPATH")}
    return subprocess.run(command, cwd=cwd, env=settings | environment, capture_output=True, text=True)


def good(done: subprocess.CompletedProcess) -> subprocess.CompletedProcess:
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """The package's files as a fresh clone has them: nothing built."""
    folder = tmp_path_factory.mktemp("source")
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)
    return folder


def fresh_environment(folder: Path) -> Path:
    """A virtual environment that borrows the dependencies of this one, but not its brigade. Returns its python."""
    good(run(sys.executable, "-m", "venv", folder, cwd=folder.parent))
    python = folder / "bin" / "python"
    site = good(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)).stdout.strip()
    Path(site, "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def install(python: Path, what: Path, **environment: str) -> None:
    """As `pip install` does it: a wheel is built, and unpacked."""
    wheels = python.parents[1] / "wheels"
    pip = (sys.executable, "-m", "pip", "-q")
    good(run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", wheels, what, cwd=what.parent, **environment))
    good(run(*pip, "--python", python, "install", "--no-deps", *wheels.iterdir(), cwd=what.parent))


def test_without_a_compiler_the_reference_backend_serves_and_says_so_once(source: Path, tmp_path: Path) -> None:
    python = fresh_environment(tmp_path / "venv")
    install(python, source, CC="/bin/false", CXX="/bin/false")
    done = good(run(python, *GENERATE, cwd=tmp_path))
    assert done.stderr.count("the C++ kernels were not built (no compiler?); the slower reference backend is used") == 1
    refused = run(python, *GENERATE, "--backend", "cpu", cwd=tmp_path)
    assert refused.returncode == 2 and refused.stderr.startswith("brigade: error: the cpu backend was not built (no C++ compiler")
    assert len(refused.stderr.splitlines()) == 1
    facts = good(run(python, "-m", "brigade.cli.main", "env", cwd=tmp_path)).stdout
    assert "kernels: not built (no C++ compiler at install)" in facts


@needs_compiler
@pytest.mark.parametrize(
    ("unknown", "lost"),
    [
        ("-mamx-tile", ("amx",)),
        ("-mavx512bf16", ("avx512-bf16",)),
        ("-mavx512f", ("amx", "avx512-bf16", "avx512-vnni", "avx512")),
    ],
)
def test_an_older_compiler_loses_only_what_it_does_not_know(source: Path, tmp_path: Path, unknown: str, lost) -> None:
    wrapper = tmp_path / "old-compiler"
    # Nothing is computed with what it builds, so it need not optimise.
    wrapper.write_text(f'#!/bin/sh\nfor word; do [ "$word" = "{unknown}" ] && exit 1; done\nexec c++ "$@" -O0\n')
    wrapper.chmod(0o755)
    build = (sys.executable, "setup.py", "build_ext", "--build-lib", tmp_path / "lib", "--build-temp", tmp_path / "temp")
    good(run(*build, cwd=source, CC=str(wrapper), CXX=str(wrapper)))
    (library,) = tmp_path.glob("lib/**/_kernels*.so")
    code = "from brigade.backends.cpu.library import available_paths; print(*available_paths())"
    found = good(run(sys.executable, "-c", code, cwd=ROOT, BRIGADE_KERNELS=str(library))).stdout.split()
    assert found == [name for name in available_paths() if name not in lost]


@needs_compiler
def test_the_source_archive_installs_with_its_kernels(source: Path, tmp_path: Path) -> None:
    good(run(sys.executable, "setup.py", "-q", "sdist", "--dist-dir", tmp_path, cwd=source))
    (archive,) = tmp_path.glob("*.tar.gz")
    python = fresh_environment(tmp_path / "venv")
    install(python, archive)
    done = good(run(python, *GENERATE, cwd=tmp_path))
    assert "reference backend" not in done.stderr
    facts = good(run(python, "-m", "brigade.cli.main", "env", cwd=tmp_path)).stdout
    assert f"kernels: path {default_path()}" in facts
    where = good(run(python, "-c", "import brigade; print(brigade.__file__)", cwd=tmp_path)).stdout
    assert str(tmp_path) in where, "this must be the installed one"
    assert Path(where.strip()).with_name("verify").joinpath("page.html").exists()


def test_a_build_that_is_not_there_is_refused_in_one_line(tmp_path: Path) -> None:
    done = run(sys.executable, *GENERATE, cwd=ROOT, BRIGADE_KERNELS=str(tmp_path / "none.so"))
    assert done.returncode == 2 and "which is no file" in done.stderr and len(done.stderr.splitlines()) == 1
