"""The collector rests while the modules of a command, a rank or a script are imported, and never longer."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from brigade.collector import resting

ROOT = Path(__file__).parents[1]


def said(*arguments: str, **variables: str) -> list[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


NOTING = """
import gc, os
from brigade.parallel import stage

def note(word):
    with open(os.environ["NOTES"], "a") as file:
        file.write(f"{os.getpid()} {word} {gc.isenabled()} {gc.get_freeze_count() > 50_000}\\n")

def noted(self, *args, run=stage.Stage.run, **keywords):
    note("step")
    return run(self, *args, **keywords)

note("import")
stage.Stage.run = noted
"""


def test_a_command_and_its_ranks_have_it_again_before_the_long_work(tmp_path: Path) -> None:
    (tmp_path / "noting.py").write_text(NOTING)
    notes = tmp_path / "notes"
    command = [
        "-m",
        "brigade.cli.main",
        "generate",
        "def f(",
        "--max-tokens",
        "1",
        "--kv-blocks",
        "4",
        "--tp",
        "2",
        "--import",
        "noting",
    ]
    said(*command, NOTES=str(notes), PYTHONPATH=f"{ROOT}:{tmp_path}")
    lines = [line.split() for line in notes.read_text().splitlines()]
    assert len({process for process, *_ in lines}) == 2
    for process in {process for process, *_ in lines}:
        own = [words for name, *words in lines if name == process]
        assert own[0] == ["import", "False", "False"]
        assert own[1] == ["step", "True", "True"]


def test_so_has_every_command_that_works_without_an_engine_of_its_own(tmp_path: Path) -> None:
    code = f"""
import gc
from brigade import collector
from brigade.cli.main import main
out = {str(tmp_path / "out")!r}
for words in (["inspect", "mini"], ["export", "mini", out], ["bench", "overhead", "--requests", "1", "--steps", "2"]):
    collector.rest()
    assert not gc.isenabled() and main(words) == 0
    print("found", words[0], gc.isenabled())
"""
    words = said("-c", code)
    found = {words[at + 1]: words[at + 2] for at, word in enumerate(words) if word == "found"}
    assert found == {"inspect": "True", "export": "True", "bench": "True"}


def test_a_process_of_our_own_ends_without_a_last_collection() -> None:
    code = """
import gc, sys
from brigade.cli import main
sys.argv = ["brigade", "env"]
main.as_process()
print(gc.get_freeze_count() > 50_000)
"""
    assert said("-c", code)[-1] == "True"


def test_a_script_that_imports_the_package_has_it_as_it_was() -> None:
    code = (
        "import gc; {}; from brigade import LLM; LLM('mini', kv_blocks=4).close(); import brigade; assert brigade.LLM is LLM; "
        "print(gc.isenabled(), gc.get_freeze_count() < 10_000)"
    )
    assert said("-c", code.format("gc.enable()")) == ["True", "True"]
    assert said("-c", code.format("gc.disable()")) == ["False", "True"]


@pytest.mark.parametrize("code", ["raise ValueError", "import no_such_module"])
def test_also_after_an_import_that_fails(code: str) -> None:
    was = gc.isenabled()
    with pytest.raises((ValueError, ModuleNotFoundError)), resting():
        assert not gc.isenabled()
        exec(code)
    assert gc.isenabled() == was
