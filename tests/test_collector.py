"""The collector rests while modules are imported, and never longer."""

from __future__ import annotations

import subprocess
import sys

import pytest


def said(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


COMMAND = """
import gc, sys
from brigade import collector
from brigade.cli import main
from brigade.assembly import line

drawn = line.Blueprint.plan
def plan(self, *args, **kw):
    print("planning", gc.isenabled(), gc.get_freeze_count() > 100_000)
    return drawn(self, *args, **kw)
line.Blueprint.plan = plan
sys.argv = ["brigade", "generate", "def f(", "--max-tokens", "1", "--kv-blocks", "4"]
collector.rest()
print("before", gc.isenabled())
assert main.main() == 0
print("after", gc.isenabled())
"""


def test_a_command_has_its_collector_again_before_the_long_work() -> None:
    words = said(COMMAND)
    assert words[:2] == ["before", "False"]
    at = words.index("planning")
    assert words[at : at + 3] == ["planning", "True", "True"]
    assert words[-2:] == ["after", "True"]


def test_a_script_that_imports_the_package_has_its_collector_as_it_was() -> None:
    code = "import gc; {}; from brigade import LLM; LLM('mini', kv_blocks=4).close(); print(gc.isenabled(), gc.get_freeze_count())"
    assert said(code.format("gc.enable()")) == ["True", "0"]
    assert said(code.format("gc.disable()")) == ["False", "0"]


@pytest.mark.parametrize("code", ["raise ValueError", "import no_such_module"])
def test_also_after_an_import_that_fails(code: str) -> None:
    import gc

    from brigade.collector import resting

    was = gc.isenabled()
    with pytest.raises((ValueError, ModuleNotFoundError)), resting():
        assert not gc.isenabled()
        exec(code)
    assert gc.isenabled() == was


def test_a_process_of_our_own_ends_without_a_last_collection() -> None:
    code = """
import gc, sys
from brigade.cli import main
sys.argv = ["brigade", "env"]
main.as_process()
print(gc.get_freeze_count() > 1000)
"""
    assert said(code)[-1] == "True"
