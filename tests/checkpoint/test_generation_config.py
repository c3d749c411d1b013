"""A checkpoint's sampling defaults: read as its makers mean them, under what the caller says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from brigade import LLM, SamplingParams
from brigade.checkpoint.generation_config import sampling_defaults
from brigade.checkpoint.load import EMBEDDED
from brigade.cli.main import main
from brigade.errors import CheckpointError

FULL = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05, "max_new_tokens": 9}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EMBEDDED, tmp_path / "model"))


def write(folder: Path, values: object) -> Path:
    (folder / "generation_config.json").write_text(json.dumps(values))
    return folder


def test_only_what_has_an_effect_is_read(folder: Path) -> None:
    ours = {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05}
    assert sampling_defaults(write(folder, FULL)) == ours
    assert sampling_defaults(write(folder, {**FULL, "do_sample": False})) == {"repetition_penalty": 1.05}
    assert sampling_defaults(write(folder, {"eos_token_id": 0})) == {}
    assert sampling_defaults(folder / "nowhere") == sampling_defaults(None) == {}


def test_they_rule_where_the_caller_is_silent(folder: Path) -> None:
    llm = LLM(write(folder, {**FULL, "top_k": 1}), kv_blocks=16)
    greedy = llm.generate("import os", llm.params(temperature=0.0, top_k=0, top_p=1.0, max_tokens=16))[0].token_ids
    assert llm.generate("import os")[0].token_ids == greedy  # top_k 1 leaves the most likely token alone
    assert llm.params(temperature=0.2).temperature == 0.2 and llm.params(temperature=0.2).top_p == 0.8
    plain = SamplingParams(seed=3, temperature=3.0)  # parameters of one's own are taken as they are
    assert llm.generate("import os", plain)[0].token_ids == LLM(kv_blocks=16).generate("import os", plain)[0].token_ids


def test_the_command_says_that_they_are_used(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--model", str(write(folder, FULL)), "--max-tokens", "2", "--kv-blocks", "16", "x"]) == 0
    assert "the model's own sampling defaults: temperature 0.7, top_k 20, top_p 0.8" in capsys.readouterr().err
    assert main(["generate", "--max-tokens", "2", "--kv-blocks", "16", "x"]) == 0
    assert "defaults" not in capsys.readouterr().err


@pytest.mark.parametrize("broken", ["{", "[1]", '{"do_sample": true, "top_p": 7}', '{"do_sample": true, "top_k": "many"}'])
def test_a_broken_file_is_one_line(folder: Path, broken: str) -> None:
    (folder / "generation_config.json").write_text(broken)
    with pytest.raises(CheckpointError, match="generation_config.json") as error:
        LLM(folder, kv_blocks=16)
    assert "\n" not in str(error.value)
