"""`brigade verify matrix`: every row does what its name says, and is compared with one rank that runs the requests one by one."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from brigade.checkpoint.load import open_model
from brigade.cli.main import main
from brigade.engine.engine import DynamicEngine
from brigade.verify.layout import ONE_RANK, Layout, possible_layouts
from brigade.verify.matrix import run_matrix
from brigade.verify.models import ModelChoice, Models
from brigade.verify.prompts import LENGTHS, built_in
from brigade.verify.rows import REFERENCE, Load, matrix_rows
from tests.verify.builders import nudge_logits, write_case

TINY = ["--random-weights", "1", "--max-tokens", "8"]


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    return str(write_case(tmp_path / "case") / "tiny.yaml")


def run(capsys, *argv: object) -> tuple[int, str, str]:
    code = main(["verify", "matrix", *map(str, argv)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def verdicts(text: str) -> dict[str, str]:
    words = ("reference", "same", "DIFFERENT", "ERROR")
    lines = [line for line in text.splitlines() if any(f"  {word} " in line for word in words)]
    return {line.split("  ")[0]: next(word for word in words if f"  {word} " in line) for line in lines}


def test_one_rank_says_the_same_at_every_setting(recipe: str, capsys, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    code, text, _ = run(capsys, recipe, *TINY, "--rows", "1 rank", "--json", out)
    found = verdicts(text)
    assert code == 0, text
    assert found.pop(REFERENCE) == "reference" and len(found) >= 12 and set(found.values()) == {"same"}
    rows = {row["name"]: row for row in json.loads(out.read_text())}
    assert rows["1 rank, too few blocks"]["measured"]["preemptions"] > 0
    assert rows["1 rank, known prefixes"]["measured"]["cached_tokens"] > 0
    assert rows["1 rank, chunks of 1"]["measured"]["steps"] > rows["1 rank, whole prompts in one step"]["measured"]["steps"]
    assert rows[REFERENCE]["measured"]["together"] == 1 and rows["1 rank, together"]["measured"]["together"] == 8
    said = f"{len(found)} of {len(found)} settings say the same as the reference, bit for bit; "
    assert said in text and "other rows were left out by --rows" in text  # the rows of several ranks


def test_the_embedded_model(capsys) -> None:
    code, text, _ = run(
        capsys, "--num-prompts", "4", "--max-tokens", "6", "--rows", "1 rank, too few", "--rows", "1 rank, together"
    )
    assert code == 0 and verdicts(text)["1 rank, too few blocks"] == "same"


def test_a_row_that_differs_is_told_with_its_first_place(recipe: str, capsys, monkeypatch) -> None:
    """A fault that shows only where rows are computed together."""
    nudge_logits(monkeypatch, together=8, row=3)
    code, text, _ = run(capsys, recipe, *TINY, "--rows", "1 rank, together")
    line = next(line for line in text.splitlines() if line.startswith("1 rank, together "))
    assert code == 1 and "DIFFERENT" in line and "request 3, token" in line
    assert "the logits differ (digest" in text


def test_a_row_whose_special_thing_did_not_happen_is_no_green_one(recipe: str, capsys, monkeypatch) -> None:
    monkeypatch.setattr(DynamicEngine, "prefix_cache_allowed", False)
    code, text, _ = run(capsys, recipe, *TINY, "--rows", "known prefixes")
    assert code == 2 and verdicts(text)["1 rank, known prefixes"] == "ERROR"
    assert "what this row is for did not happen: cached_tokens is 0" in text


def test_one_prompt_cannot_be_preempted(recipe: str, capsys) -> None:
    code, text, _ = run(capsys, recipe, *TINY, "--num-prompts", "1", "--rows", "1 rank, too few")
    assert code == 2 and "preemptions is 0" in text


def test_a_layout_that_cannot_start_is_an_error_row_and_the_rest_goes_on(recipe: str, capsys, monkeypatch) -> None:
    from brigade.errors import ConfigError
    from brigade.verify import models

    def refusing(*given, **named):
        if named.pop("tp", 1) > 1 or named.pop("pp", 1) > 1:
            raise ConfigError("no ranks today")
        return real(*given, **named)

    real = models.LLM
    monkeypatch.setattr(models, "LLM", refusing)
    code, text, _ = run(capsys, recipe, *TINY, "--rows", "together")
    found = verdicts(text)
    assert code == 2 and found["1 rank, together"] == "same" and found["tp2, together"] == "ERROR" and "no ranks today" in text


def test_own_prompts(recipe: str, capsys, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"token_ids": [1, 2, 3], "seed": 4, "temperature": 1}\n{"token_ids": [4, 5], "max_tokens": 3}\n')
    ask = ["--random-weights", "1", "--prompts-file", prompts, "--rows", "1 rank, together"]
    code, text, _ = run(capsys, recipe, *ask)
    assert code == 0 and "2 requests" in text
    prompts.write_text('{"token_ids": [1, 2, 3], "temperature": 1}\n')
    code, _, error = run(capsys, recipe, *ask)
    assert code == 2 and "prompt 0: without a seed" in error


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--rows", "warp"], "no row has 'warp' in its name; without --rows all "),
        (["--max-tokens", "0"], "--max-tokens is 0"),
        (["--num-prompts", "-1"], "--num-prompts is -1"),
        (["--max-tokens", "300"], "300 tokens leave no room for a prompt in 256 positions"),
        (["--quant", "int9"], "quant is 'int9'"),
    ],
)
def test_a_wrong_command_ends_with_one_line_and_code_2(argv: list[str], words: str, recipe: str, capsys) -> None:
    code, _, error = run(capsys, recipe, "--random-weights", "1", *argv)
    assert code == 2 and words in error and error.count("\n") == 1


# What the rows are.

LOAD = Load(LENGTHS, [12] * len(LENGTHS))


def test_the_rows_cover_what_must_not_show() -> None:
    rows = matrix_rows([ONE_RANK, Layout(2, 1), Layout(1, 2), Layout(2, 2)], LOAD, [1, 2])
    assert rows[0].name == REFERENCE and rows[0].settings["max_batch_size"] == 1 and not rows[0].settings["prefix_cache"]
    assert len(rows) >= 24 and len({row.name for row in rows}) == len(rows)
    assert {row.settings.get("prefill_chunk") for row in rows} >= {1, 7, 64, sum(LENGTHS)}
    assert {row.engine for row in rows} == {"static", "dynamic"} and {row.arrivals for row in rows} >= {"together", "reversed", 1}
    assert {row.threads for row in rows} == {None, 1, 2} and any(row.passes == 2 for row in rows)
    changes = sum(one.layout != other.layout for one, other in pairwise(rows))
    assert changes == 3, "rows of one layout follow each other, so that ranks are started once"


def test_the_layouts_that_a_model_can_have() -> None:
    """The embedded model: 8 heads, 4 of keys and values, 7 layers."""
    found = possible_layouts(open_model("mini").config)
    assert found == [Layout(*d) for d in ((1, 1), (2, 1), (4, 1), (8, 1), (1, 2), (1, 4), (2, 2), (4, 2), (2, 4))]
    large = possible_layouts(open_model("gpt-583m").config)
    assert Layout(2, 2) in large and all(layout.tp <= 8 for layout in large)


def test_the_built_in_prompts_are_unlike_and_some_begin_alike() -> None:
    asks = built_in(8, 12, None, 97, 256)
    prompts = [tuple(ask.prompt) for ask in asks]
    assert [len(prompt) for prompt in prompts] == list(LENGTHS) and len(set(prompts)) == 8
    assert prompts[2][:33] == prompts[3][:33] == prompts[6][:33] and prompts[2][33:61] != prompts[6][33:61]
    assert {ask.params["temperature"] for ask in asks} == {0, 0.8}


def test_the_reference_comes_first_and_rows_come_as_they_are_done(recipe: str) -> None:
    asks = built_in(2, 2, None, 71, 256)
    load = Load([len(ask.prompt) for ask in asks], [2, 2])
    with Models(ModelChoice(recipe, random_weights=1)) as models:
        rows = run_matrix(models, matrix_rows([ONE_RANK], load, [])[:2], asks)
        assert next(rows).verdict == "reference"
        assert next(rows).verdict == "same"
