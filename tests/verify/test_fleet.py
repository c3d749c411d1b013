"""A case behind a coordinator: replicas say what one engine was recorded to say, also if one of them is killed on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from brigade.errors import ConfigError
from brigade.tokenizer import Tokenizer
from brigade.verify import fleet
from brigade.verify.case import read_case
from brigade.verify.check import check_case, record_case, runs_of
from brigade.verify.layout import Layout
from brigade.verify.models import NO_OPTIONS, ModelChoice
from brigade.verify.play import Ask
from brigade.verify.run import Change, Run

CASE = """
model: mini
dtype: float32
settings: {max_batch_size: 4, block_size: 32, kv_blocks: 64}
params: {max_tokens: 400, temperature: 0, ignore_eos: true}
prompts:
  - "def fibonacci(n):"
  - {text: "import ", temperature: 0.8, seed: 4, n: 2}
  - {token_ids: [17, 4, 9], frequency_penalty: 0.5}
  - {text: "class A", max_tokens: 9, prompt_logprobs: 1}
runs:
  - {name: replicas, layout: {dp: 2}, kills: 1, at_least: {replicas_lost: 1}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("fleet")
    (made / "case.yaml").write_text(CASE)
    record_case(read_case(made))
    return made


def test_replicas_say_what_one_engine_said_though_one_is_killed(folder: Path) -> None:
    case = read_case(folder)
    (outcome,) = check_case(case, runs_of(case))
    assert outcome.is_same, outcome.error or outcome.differences
    assert outcome.found is not None and outcome.found.metrics == ("ids", "logprobs")
    assert outcome.found.measured["replicas_lost"] == 1 and outcome.differences is not None and outcome.differences.compared == 1610


def test_other_tokens_and_a_kill_that_did_not_happen_are_found(folder: Path, tmp_path: Path) -> None:
    text = (folder / "case.yaml").read_text().replace("kills: 1", "kills: 0").replace("seed: 4", "seed: 5")
    (tmp_path / "case.yaml").write_text(text)
    (tmp_path / "golden.json").write_text((folder / "golden.json").read_text())
    case = read_case(tmp_path)
    (outcome,) = check_case(case, runs_of(case))
    assert outcome.differences is not None and {one.request for one in outcome.differences.found} == {None, "1"}
    assert "replicas_lost is 0" in str(outcome.differences.found[0])


@pytest.mark.parametrize(("prompt", "reads"), [("import ", 0), ([{"role": "user", "content": "Hello"}], 1)])
def test_a_tokenizer_is_read_once_and_for_chats_alone(prompt: str | list, reads: int, monkeypatch) -> None:
    read, seen = Tokenizer.from_folder, []

    def far_enough(*_: object) -> None:
        raise ConfigError("far enough")

    monkeypatch.setattr(fleet, "running", far_enough)
    monkeypatch.setattr(Tokenizer, "from_folder", lambda path: seen.append(path) or read(path))
    asks = [Ask(str(number), prompt, {}) for number in range(3)]
    with pytest.raises(ConfigError, match="far enough"):
        fleet.play_fleet(ModelChoice(), NO_OPTIONS, Run(layout=Layout(dp=2)), asks, ("ids",))
    assert len(seen) == reads


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"kills": 1}, "kills is 1; it must be 0, or 1 or more where the layout has a dp"),
        ({"layout": Layout(dp=2), "kills": -1}, "kills is -1"),
        ({"layout": Layout(dp=2), "arrivals": 2}, "requests to replicas come together"),
    ],
)
def test_what_cannot_be_is_refused(given: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Run(**given)


def test_a_case_is_recorded_from_one_engine(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "case.yaml").write_text(CASE + "layout: {dp: 2}\n")
    with pytest.raises(ConfigError, match="a case is recorded from one engine"):
        read_case(tmp_path)
    with pytest.raises(ConfigError, match="dp is 0"):
        Layout(dp=0)
    assert Change(layout=Layout(2, 2, dp=2), kills=1).words() == "tp2 x pp2 x dp2, kills 1"


def test_replicas_that_refuse_their_settings_are_an_error_with_their_reason(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "case.yaml").write_text(CASE.replace("kv_blocks: 64", "kv_blocks: 1"))
    (tmp_path / "golden.json").write_text((folder / "golden.json").read_text())
    case = read_case(tmp_path)
    (outcome,) = check_case(case, runs_of(case))
    assert outcome.error is not None and outcome.error.startswith("the cache has 32 positions, but requests may have 1024")
