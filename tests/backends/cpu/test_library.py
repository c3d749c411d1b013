"""Which library of kernels is taken, and what is said of one that is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("kind", ["no library", "no file"])
def test_a_library_that_is_none_of_ours_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    named = tmp_path / "kernels.so"
    if kind == "no library":
        named.write_text("plain text")
    environment = os.environ | {"BRIGADE_KERNELS": str(named)}
    command = [sys.executable, "-m", "brigade.cli.main", "generate", "x", "--max-tokens", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "BRIGADE_KERNELS" in done.stderr and "or unset it" in done.stderr
