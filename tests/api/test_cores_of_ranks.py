"""Processors that are named for an `LLM` over ranks: each rank is kept to its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import os
from brigade import LLM, SamplingParams

llm = LLM(tp=2, {named})
print(llm.generate("def f(", SamplingParams(max_tokens=4, temperature=0))[0].finish_reason)
board = llm._assembled.ranks.links.board
for process in (os.getpid(), board.facts(1).process):
    print(*sorted(os.sched_getaffinity(process)))
"""


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="this process may use one processor only"
)
@pytest.mark.parametrize("by", ["option", pytest.param("environment", marks=pytest.mark.slow)])
def test_each_rank_has_its_own(by: str) -> None:
    cpus = sorted(os.sched_getaffinity(0))[:2]
    listed = ",".join(map(str, cpus))
    environ = {name: value for name, value in os.environ.items() if name != "BRIGADE_CPUS"}
    environ |= {"BRIGADE_CPUS": listed} if by == "environment" else {}
    script = SCRIPT.format(named=f"cpus='{listed}'" if by == "option" else "")
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["length", str(cpus[0]), str(cpus[1])]
