"""Torch's products are asked in a process of their own, and never for longer than is worth it."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from brigade.bench import opinion


def test_a_small_product_decides_whether_a_large_one_is_worth_its_time(monkeypatch) -> None:
    tried = []

    def product(work, wait) -> float:
        tried.append(len(work()))
        return 1e-6 * len(work()) ** 3  # the same rate at every size: 2 million operations a second

    monkeypatch.setattr(opinion, "_best", product)
    monkeypatch.setattr(opinion, "SIZES", {"cpu": (32, 64)})
    monkeypatch.setattr(opinion, "ARITHMETICS", ("float32",))

    def sizes(known: float, seconds: float) -> set[int]:
        tried.clear()
        opinion.rates("cpu", {"float32": known}, lambda: None, time.time() + seconds, lambda found: None)
        return set(tried)

    assert sizes(0.0, 60.0) == sizes(4e6, 60.0) == {32, 64}
    assert sizes(1e12, 60.0) == {32}, "far below what is known"
    assert sizes(0.0, 1.0) == {32}, "eight runs of 0.26 s"


def test_the_process_that_asks_torch(monkeypatch, capsys) -> None:
    monkeypatch.setattr(opinion, "SIZES", {"cpu": (64, 128)})
    monkeypatch.setattr("sys.argv", ["opinion", "--threads", "1", "--device", "cpu", "--until", str(time.time() + 60)])
    opinion.main()
    found: dict[str, float] = {}
    for line in capsys.readouterr().out.splitlines():
        found |= json.loads(line)
    assert set(found) >= {"float32", "bfloat16"} and min(found.values()) > 1e6


@pytest.mark.parametrize("path", ["", "portable", *opinion.HELD_TO])
def test_torch_is_held_to_the_instructions_of_the_path_in_force(path: str, monkeypatch) -> None:
    asked = {}

    def run(command, env, **settings) -> subprocess.CompletedProcess:
        asked.update(env)
        return subprocess.CompletedProcess(command, 0, b'{"float32": 1.0}\n', b"")

    monkeypatch.setattr(opinion.subprocess, "run", run)
    names = {name for held in opinion.HELD_TO.values() for name in held}
    for name in names:
        monkeypatch.delenv(name, raising=False)
    assert opinion.ask_torch(1, "cpu", {}, 5.0, path) == {"float32": 1.0}
    assert {name: asked[name] for name in names & set(asked)} == opinion.HELD_TO.get(path, {})
