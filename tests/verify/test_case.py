"""What a case says: everything wrong with it is told in one line with its place, before a model is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from brigade.errors import ConfigError
from brigade.verify.case import find_case, read_case, shipped_cases
from brigade.verify.layout import Layout
from tests.verify.builders import CASE, write_case

PROMPT = {"token_ids": [1, 2]}
BAD: dict[str, tuple[dict, str]] = {
    "an unknown key": ({"modle": "x"}, "unknown field `modle`; known: model, prompts"),
    "an unknown key of the layout": ({"layout": {"tq": 2}}, "at layout: object contains unknown field `tq`"),
    "a text for a number": ({"layout": {"tp": "two"}}, "at layout.tp: expected `int`, got `str`"),
    "no ranks": ({"layout": {"tp": 0}}, "tp is 0; it must be 1 or more"),
    "stages that do not add up": ({"layout": {"pp": 2, "pp_layers": [1, 2, 3]}}, "pp_layers names 3 stages, but pp is 2"),
    "no prompts": ({"prompts": []}, "prompts is empty"),
    "a prompt of two kinds": ({"prompts": [PROMPT | {"text": "a"}]}, "prompt 0: a prompt has exactly one of text, token_ids, chat"),
    "a prompt of no kind": ({"prompts": [PROMPT, {"seed": 1}]}, "prompt 1: a prompt has exactly one of"),
    "ids that are texts": ({"prompts": [{"token_ids": ["1"]}]}, "prompt 0: token_ids must be a list of ids"),
    "a chat that is a text": ({"prompts": [{"chat": "hello"}]}, "prompt 0: chat must be a list of messages"),
    "an unknown parameter": ({"prompts": [PROMPT | {"temprature": 0}]}, "prompt 0: unknown key 'temprature'"),
    "a parameter out of range": ({"prompts": [PROMPT | {"top_p": 7}]}, "prompt 0: top_p is 7"),
    "a draw without a seed": ({"prompts": [PROMPT | {"temperature": 0.5}]}, "prompt 0: without a seed no run finds these tokens"),
    "a temperature that the model may choose": ({"params": {"max_tokens": 3}}, "prompt 0: without a seed"),
    "log-probabilities as a parameter": ({"params": {"logprobs": 3, "temperature": 0}}, "prompt 0: logprobs is a metric"),
    "an unknown metric": ({"metrics": ["ids", "speed"]}, "at metrics[1]: invalid enum value 'speed'"),
    "no ids": ({"metrics": ["logprobs"]}, "metrics is logprobs; name ids"),
    "a metric twice": ({"metrics": ["ids", "ids"]}, "each of the others once at most"),
    "a tolerance of nothing": ({"tolerance": 0}, "tolerance is 0.0; it must be a number above 0"),
    "a tolerance without end": ({"tolerance": float("inf")}, "tolerance is inf"),
    "a tolerance that is no number": ({"tolerance": float("nan")}, "tolerance is nan"),
    "an unknown engine": ({"engine": "steam"}, "engine is 'steam'"),
    "an unknown setting": ({"settings": {"blocksize": 8}}, "unknown setting blocksize"),
    "a setting without effect": ({"engine": "static", "settings": {"prefix_cache": False}}, "prefix_cache has no effect"),
    "arrivals of too few": ({"arrivals": [0, 1]}, "arrivals names 2 steps for 4 prompts"),
    "arrivals before the start": ({"arrivals": [0, -1, 0, 0]}, "arrivals names step -1"),
    "nobody at a step": ({"arrivals": 0}, "arrivals is 0; give 1 or more requests a step"),
    "no passes": ({"passes": 0}, "passes is 0"),
    "a bound of what is not measured": ({"at_most": {"watts": 3}}, "'watts' is not measured"),
    "an unknown key of a run": ({"runs": [{"engin": "static"}]}, "at runs[0]: object contains unknown field `engin`"),
    "a bad run": ({"runs": [{"arrivals": [0]}]}, "arrivals names 1 steps for 4 prompts"),
    "a run that cannot be with the case's settings": (
        {"settings": {"prefix_cache": False}, "runs": [{"engine": "static"}]}, "prefix_cache has no effect on the static engine"),
    "two runs of one name": ({"runs": [{"name": "a"}, {"name": "a"}]}, "two runs are called 'a'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_told_in_one_line(name: str, tmp_path: Path) -> None:
    changes, words = BAD[name]
    folder = write_case(tmp_path / "case", **changes)
    with pytest.raises(ConfigError) as caught:
        read_case(folder)
    said = str(caught.value)
    assert words in said and said.startswith(str(folder / "case.yaml")) and "\n" not in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model: [", "is not valid YAML"),
        ("- a\n- b\n", "holds no settings"),
        ("", "holds no settings"),
        ("model: mini\n", "prompts"),
    ],
)
def test_a_file_that_is_no_case(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "case.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_case(tmp_path)


def test_a_case_is_a_folder_or_comes_with_the_package(tmp_path: Path) -> None:
    assert find_case(str(write_case(tmp_path / "own"))) == tmp_path / "own"
    assert find_case("mini-layouts").name == "mini-layouts"
    with pytest.raises(ConfigError, match="no case 'elsewhere'.*mini-layouts"):
        find_case("elsewhere")


def test_a_run_takes_its_own_and_keeps_the_rest(tmp_path: Path) -> None:
    runs = [{}, {"layout": {"tp": 2, "pp": 2}}, {"settings": {"prefill_chunk": 7}, "arrivals": "together"}, {"name": "x"}]
    case = read_case(write_case(tmp_path / "case", runs=runs))
    plain, ranks, chunks, named = case.runs
    assert plain == case.base and plain.layout.arguments() == {}
    assert (ranks.name, ranks.layout, ranks.settings) == ("tp2 x pp2", Layout(2, 2), CASE["settings"])
    assert ranks.layout.arguments() == {"tp": 2, "pp": 2}
    assert chunks.settings == CASE["settings"] | {"prefill_chunk": 7} and chunks.arrivals == "together"
    assert chunks.name == "arrivals together, prefill_chunk 7" and named.name == "x"


def test_without_runs_a_case_is_checked_as_it_was_recorded(tmp_path: Path) -> None:
    case = read_case(write_case(tmp_path / "case"))
    assert case.runs == (case.base,)


def test_a_models_path_begins_at_the_cases_folder(tmp_path: Path, monkeypatch) -> None:
    folder = write_case(tmp_path / "case")
    monkeypatch.chdir("/")
    assert read_case(folder).model.model == str(folder / "tiny.yaml")
    assert read_case(write_case(tmp_path / "case", model="gpt-345m")).model.model == "gpt-345m"


def test_the_order_of_arrival() -> None:
    def order(arrivals) -> list[tuple[int, int]]:
        from brigade.verify.run import Run

        return Run(arrivals=arrivals).arrival_steps(3)

    assert order("together") == [(0, 0), (0, 1), (0, 2)] and order("reversed") == [(0, 2), (0, 1), (0, 0)]
    assert order(2) == [(0, 0), (0, 1), (1, 2)] and order((5, 0, 5)) == [(0, 1), (5, 0), (5, 2)]


@pytest.mark.parametrize("folder", shipped_cases(), ids=lambda folder: folder.name)
def test_a_shipped_case_is_whole(folder: Path) -> None:
    from brigade.verify.record import read_record

    case, golden = read_case(folder), read_record(folder / "golden.json")
    golden.check_golden()
    assert set(golden.requests) == {ask.name for ask in case.asks} and golden.metrics == case.metrics
    assert "/bf16-fma/" in golden.numerics_id, "bits that every processor with FMA can give"


def test_the_shipped_cases_are_those_that_were_promised() -> None:
    cases = {folder.name: read_case(folder) for folder in shipped_cases()}
    mini, large = cases["mini-layouts"], cases["gpt-583m"]
    assert len({run.layout for run in mini.runs}) >= 12
    assert [run.layout for run in large.runs] == [Layout(2, 2), Layout(2, 2, dp=2)]
    assert large.runs[0].at_least == {"together": 32}
    assert large.runs[1].kills == 1 and large.runs[1].at_least == {"together": 32, "replicas_lost": 1}
    assert len({ask.prompt for ask in large.asks}) == 32 and "2008" in large.asks[0].prompt
    assert {ask.params["max_tokens"] for ask in large.asks} == {30}
