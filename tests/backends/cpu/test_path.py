"""Which set of instructions a process computes with: the best, or the one that BRIGADE_PATH names."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from brigade.backends.cpu import library
from brigade.backends.cpu.library import PATHS, available_paths, choose_path, find_kernels, kernels
from brigade.errors import ConfigError

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

LACKING = [path for path in PATHS if path not in available_paths()]


def brigade(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "brigade.cli.main", *argv]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)


def test_the_variable_names_a_path_and_env_shows_it_and_who_computes() -> None:
    done = brigade("env", BRIGADE_PATH="portable", BRIGADE_CPUS="")
    assert done.returncode == 0 and "kernels: path portable, " in done.stdout, done.stderr
    assert "chosen by BRIGADE_PATH" in done.stdout and "threads: cpu backend " in done.stdout
    assert "(the kernels' own pool), reference backend " in done.stdout


@pytest.mark.parametrize(
    "command", ["generate x --max-tokens 1", "generate x --max-tokens 1 --backend reference", "serve --port 0 --backend reference",
                "bench overhead"],
)  # fmt: skip
def test_a_command_refuses_a_name_that_is_none_in_one_line(command: str) -> None:
    """The reference backend too, since ids are drawn with the kernels whoever computes the logits."""
    done = brigade(*command.split(), BRIGADE_PATH="avx3")
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith("brigade: error: BRIGADE_PATH is 'avx3', which is no path; there are ")


def test_env_says_that_nothing_computes_with_a_name_that_is_none() -> None:
    done = brigade("env", BRIGADE_PATH="avx3")
    assert done.returncode == 0 and "cpu backend refused: BRIGADE_PATH is 'avx3'" in done.stdout
    assert "computing by default nothing, since this is refused" in done.stdout


@pytest.mark.parametrize("name", ["avx3", "AVX2", *LACKING])
def test_a_name_that_is_unknown_or_not_there_is_refused_with_those_that_are(name: str, monkeypatch) -> None:
    monkeypatch.setenv("BRIGADE_PATH", name)
    with pytest.raises(ConfigError, match=f"BRIGADE_PATH is '{name}', .* {', '.join(available_paths())}: name one, or unset it"):
        library.default_path()


def test_a_test_that_chose_a_path_returns_to_the_one_named(monkeypatch) -> None:
    try:
        for name in available_paths():
            monkeypatch.setenv("BRIGADE_PATH", name)
            choose_path("")
            assert kernels().br_path().decode() == library.default_path() == name
            choose_path(available_paths()[0])
            assert kernels().br_path().decode() == available_paths()[0]
    finally:
        monkeypatch.undo()
        choose_path("")


def test_no_path_of_another_name_is_taken() -> None:
    with pytest.raises(ConfigError, match="no path 'avx3'; choose one of"):
        choose_path("avx3")
    assert kernels().br_path().decode() == library.default_path()


def test_looking_at_all_paths_leaves_the_one_in_force() -> None:
    """While another thread computes."""
    try:
        for name in available_paths():
            choose_path(name)
            assert available_paths() and kernels().br_path().decode() == name
    finally:
        choose_path("")


def test_threads_that_load_the_kernels_together_choose_the_path_once(monkeypatch) -> None:
    chosen = []
    monkeypatch.setattr(library, "_take", lambda *args: (time.sleep(0.05), chosen.append(args)))
    library.kernels.cache_clear()
    library._load.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        found = {id(each.result()) for each in [pool.submit(library.kernels) for _ in range(4)]}
    assert len(found) == 1 and len(chosen) == 1
