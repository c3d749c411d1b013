"""`brigade verify check` finds a fault that one rank alone has, and none where there is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from brigade.backends.cpu.library import find_kernels
from brigade.cli.main import main
from tests.verify.builders import write_case

REFERENCE = {"dtype": "bfloat16"}
INT8 = {"backend": "cpu", "quant": "int8", "settings": {"block_size": 32, "kv_blocks": 16, "max_batch_size": 4}}
PAIR, SQUARE = ["--tp", "2"], ["--tp", "2", "--pp", "2"]  # rank 1 shares the last stage; of four, 2 and 3 are the first stage
FAULTS = {  # the function in rank_faults.py and the rank it is planted in: the layout, and the case
    "last_bit@1": (PAIR, REFERENCE),
    "last_bit@3": (SQUARE, REFERENCE),
    "other_eps@1": (PAIR, REFERENCE),
    "other_angle@2": (SQUARE, REFERENCE),
    "own_bias@1": (PAIR, REFERENCE),
    "other_order@1": (PAIR, REFERENCE),
    "lost_update@3": (SQUARE, REFERENCE),
    "own_maximum@1": (PAIR, INT8),
    "rows_of_before@2": (SQUARE, REFERENCE),
    "other_block@1": (PAIR, REFERENCE),
    "neighbours_words@3": (SQUARE, REFERENCE),
    "other_logits@1": (PAIR, REFERENCE),
}
QUICK = ("own_maximum@1",)  # in the suite; all of them in the slow set


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Callable[[dict], Path]:
    """A case that one healthy rank has recorded."""
    made: dict[str, Path] = {}

    def of(case: dict) -> Path:
        name = json.dumps(case)
        if name not in made:
            made[name] = write_case(tmp_path_factory.mktemp("ranks") / "case", **case)
            assert main(["verify", "record", str(made[name])]) == 0
        return made[name]

    return of


def check(folder: Path, layout: list[str]) -> tuple[int, dict]:
    out = folder.parent / "out.json"
    code = main(["verify", "check", str(folder), *layout, "--import", "tests.verify.rank_faults", "--json", str(out)])
    return code, json.loads(out.read_text())[0]


@pytest.mark.parametrize("fault", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in FAULTS])
def test_a_fault_of_one_rank_is_found(fault: str, recorded, monkeypatch) -> None:
    layout, case = FAULTS[fault]
    if case is INT8 and find_kernels() is None:
        pytest.skip("the C++ kernels are not built: no compiler on this machine")
    folder = recorded(case)
    monkeypatch.setenv("BRIGADE_TEST_FAULT", fault)
    code, outcome = check(folder, layout)
    assert code == 1 and outcome["same"] is False and outcome["error"] is None
    assert outcome["differences"]


@pytest.mark.parametrize("layout", [PAIR, pytest.param(SQUARE, marks=pytest.mark.slow)], ids=["tp 2", "tp 2 x pp 2"])
@pytest.mark.parametrize("case", [REFERENCE, pytest.param(INT8, marks=pytest.mark.slow)], ids=["reference", "int8"])
def test_nothing_is_found_where_nothing_is_planted(layout: list[str], case: dict, recorded, monkeypatch) -> None:
    if case is INT8 and find_kernels() is None:
        pytest.skip("the C++ kernels are not built: no compiler on this machine")
    monkeypatch.delenv("BRIGADE_TEST_FAULT", raising=False)
    code, outcome = check(recorded(case), layout)
    assert code == 0 and outcome["same"] is True


@pytest.mark.parametrize("fault, verdict", [("other_id@1", "DIFFERENT"), pytest.param("", "same", marks=pytest.mark.slow)])
def test_the_pairs_of_greedy_rows_are_compared_by_the_matrix(fault: str, verdict: str, recorded, monkeypatch, tmp_path) -> None:
    """A case keeps whole rows of logits, so what ranks send in place of them is looked at here."""
    recipe, out = recorded(REFERENCE) / "tiny.yaml", tmp_path / "out.json"
    monkeypatch.setenv("BRIGADE_TEST_FAULT", fault)
    given = ["--random-weights", "5", "--max-tokens", "8", "--backend", "reference", "--rows", "tp2, plain"]
    code = main(["verify", "matrix", str(recipe), *given, "--import", "tests.verify.rank_faults", "--json", str(out)])
    _, row = json.loads(out.read_text())
    assert row["name"] == "tp2, plain greedy requests" and row["verdict"] == verdict
    assert code == (1 if fault else 0)


def test_a_rank_that_dies_ends_its_run_and_no_other(recorded, monkeypatch, tmp_path, capsys) -> None:
    folder = write_case(tmp_path / "case", runs=[{"layout": {"tp": 2}}, {}])
    assert main(["verify", "record", str(folder)]) == 0
    monkeypatch.setenv("BRIGADE_TEST_FAULT", "dies@1")
    out = tmp_path / "out.json"
    code = main(["verify", "check", str(folder), "--import", "tests.verify.rank_faults", "--json", str(out)])
    lost, alone = json.loads(out.read_text())
    assert code == 2 and "rank 1 (stage 0, tensor rank 1) died by signal 9 (SIGKILL)" in lost["error"]
    assert alone["error"] is None and alone["same"] is True


def test_ten_faults_are_planted_and_each_is_a_function() -> None:
    from tests.verify import rank_faults

    assert len(FAULTS) >= 10 and all(callable(getattr(rank_faults, name.partition("@")[0])) for name in FAULTS)
