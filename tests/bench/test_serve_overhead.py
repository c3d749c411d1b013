"""`benchmarks/serve.py` with the embedded model: every part comes to its end and says what it found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_quick_run_measures_every_part(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "benchmarks/serve.py",
        "--quick",
        "--idle",
        "20",
        "--times",
        "3",
        "--json",
        str(tmp_path / "out.json"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["cost", "first", "idle"]
    found = json.loads((tmp_path / "out.json").read_text())
    assert len(found["cost"]["shares"]) == 2 and len(found["first"]["seconds"]["server"]) == 3
    assert found["idle"]["held"] == found["idle"]["answered"] == 20


@pytest.mark.parametrize(
    ("words", "said"),
    [(["cots"], "no part 'cots'"), (["--quick", "--model", "x"], "drop --model"), (["--rounds", "0"], "sizes must be above 0")],
)
def test_what_cannot_be_measured_is_refused(words: list[str], said: str) -> None:
    done = subprocess.run([sys.executable, "benchmarks/serve.py", *words], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode and said in done.stderr
