"""Which library of kernels is taken, and what is said of one that is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("kind", ["no library", pytest.param("no file", marks=pytest.mark.slow)])
def test_a_library_that_is_none_of_ours_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    named = tmp_path / "kernels.so"
    if kind == "no library":
        named.write_text("plain text")
    environment = os.environ | {"BRIGADE_KERNELS": str(named)}
    command = [sys.executable, "-m", "brigade.cli.main", "generate", "x", "--max-tokens", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "BRIGADE_KERNELS" in done.stderr and "or unset it" in done.stderr


def test_a_relative_name_is_one_in_this_folder(tmp_path: Path) -> None:
    from brigade.backends.cpu.library import find_kernels

    built = find_kernels()
    if built is None:
        pytest.skip("the C++ kernels are not built: no compiler on this machine")
    (tmp_path / "k.so").symlink_to(built.absolute())
    code = "from brigade.backends.cpu.library import kernels; kernels(); print('loaded')"
    environment = os.environ | {"BRIGADE_KERNELS": "k.so", "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "loaded\n", done.stderr


ASKED_ONCE = """
import os
from brigade.backends.cpu.library import find_kernels, kernels
from brigade.errors import ConfigError
print(find_kernels())
del os.environ["BRIGADE_KERNELS"]
try:
    kernels()
except ConfigError as error:
    print(error)
"""


def test_the_environment_is_read_once(tmp_path: Path) -> None:
    """What is said of a library fits the library that was looked for, whatever the environment says by then."""
    named = tmp_path / "kernels.so"
    named.write_text("plain text")
    environment = os.environ | {"BRIGADE_KERNELS": str(named)}
    done = subprocess.run([sys.executable, "-c", ASKED_ONCE], env=environment, capture_output=True, text=True, check=True)
    found, said = done.stdout.splitlines()
    assert found == str(named) and "name a build of these sources in BRIGADE_KERNELS, or unset it" in said
