"""The cases that come with the package, by the command that a user gives: in a process of its own, which may choose its bits."""

from __future__ import annotations

import subprocess
import sys

import pytest

from brigade.backends.cpu.library import bf16_names, find_kernels
from brigade.verify.case import SHIPPED
from docs.rooms import PACKAGE

has_fma = find_kernels() is not None and "bf16-fma" in bf16_names().values()
pytestmark = pytest.mark.skipif(not has_fma, reason="no kernels here that give bf16-fma")


def check(*argv: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "brigade.cli.main", "verify", "check", *argv]
    return subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True)


def test_the_embedded_model_on_one_rank() -> None:
    runs = ("as recorded", "static engine", "chunks of 7", "preempted", "known prefixes")
    chosen = [word for run in runs for word in ("--runs", run)]
    done = check("mini-layouts", *chosen)
    assert done.returncode == 0 and done.stdout.endswith("5 of 5 runs say what was recorded\n"), done.stdout + done.stderr
    assert done.stdout.count("same ") == 5 and "preemptions" in done.stdout and "ids from the cache" in done.stdout


def test_a_golden_file_is_for_its_case_alone(tmp_path) -> None:
    """What was recorded for one prompt is not found for another."""
    for name in ("case.yaml", "golden.json"):
        text = (SHIPPED / "mini-layouts" / name).read_text()
        (tmp_path / name).write_text(text.replace("def fibonacci(n):", "def fibonacci(m):"))
    done = check(str(tmp_path), "--runs", "as recorded")
    assert done.returncode == 1 and "request 0: the prompt has other ids" in done.stdout, done.stdout + done.stderr
