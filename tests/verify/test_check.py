"""`brigade verify record` and `check`: the golden file is written whole and not twice; exit codes say what happened."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from brigade.cli.main import main
from brigade.errors import EngineStopped
from brigade.verify import models
from brigade.verify.record import read_record
from tests.verify.builders import write_case


def run(capsys, *argv: object) -> tuple[int, str, str]:
    code = main(["verify", *map(str, argv)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    folder = write_case(tmp_path_factory.mktemp("recorded") / "case")
    assert main(["verify", "record", str(folder)]) == 0
    return folder


@pytest.fixture
def case(recorded: Path, tmp_path: Path) -> Path:
    """A case with its golden file, for one test to do with what it likes."""
    return shutil.copytree(recorded, tmp_path / "case")


def edit(folder: Path, change) -> None:
    golden = folder / "golden.json"
    content = json.loads(golden.read_text())
    change(content)
    golden.write_text(json.dumps(content))


def first_sample(content: dict) -> dict:
    return content["requests"]["0"]["samples"][0]


def set_in(name: str, place: int, value):
    return lambda content: first_sample(content)[name].__setitem__(place, value)


def test_what_was_recorded_is_found_again(case: Path, capsys) -> None:
    code, text, _ = run(capsys, "check", case)
    assert code == 0 and "same       case: as recorded: 4 requests, 24 tokens" in text
    assert text.endswith("1 of 1 runs say what was recorded\n")


def test_recording_twice_gives_the_same_file_but_for_what_was_measured(case: Path, capsys) -> None:
    first = read_record(case / "golden.json")
    code, text, _ = run(capsys, "record", "--force", case)
    assert code == 0 and f"the model's fingerprint is {first.fingerprint}\n" in text
    second = read_record(case / "golden.json")
    assert first.requests == second.requests and first.fingerprint == second.fingerprint


def test_a_golden_file_is_not_written_over_unless_forced(case: Path, capsys) -> None:
    before = (case / "golden.json").read_bytes()
    code, _, error = run(capsys, "record", case)
    assert code == 2 and "is there already" in error and "--force" in error and (case / "golden.json").read_bytes() == before


def test_the_golden_file_has_an_entry_for_every_sampled_step(case: Path) -> None:
    for request in read_record(case / "golden.json").requests.values():
        (sample,) = request.samples
        assert len(sample.token_ids) == len(sample.logprobs) == len(sample.digests) == 6
        assert len(set(sample.digests)) == 6, "each step has logits of its own"


# Every way in which something may be missing or unlike, the exit code of `check`, and words of what it says.
WRONG = {
    "an id": (set_in("token_ids", 2, 1), 1, "request 0, token 2: id 1 "),
    "a digest": (set_in("digests", 0, "0" * 16), 1, "request 0, token 0: the logits differ"),
    "a missing request": (lambda content: content["requests"].pop("3"), 1, "request 3: is only in the run"),
    "one request more": (
        lambda content: content["requests"].update(x=content["requests"]["0"]), 1, "request x: is missing from the run"),
    "a missing id": (lambda content: first_sample(content)["token_ids"].pop(), 1, "request 0"),
    "a missing metric": (lambda content: content["metrics"].remove("digests"), 1, "the golden record lacks the metric 'digests'"),
    "digests that are not there": (lambda content: first_sample(content).update(digests=None), 1, "no digests for 6 ids"),
    "another model": (lambda content: content.update(fingerprint="0" * 32), 1, "another model"),
    "unlike numerics": (lambda content: content.update(numerics_id="cpu-0/bf16-none"), 2, "recorded with cpu-0/bf16-none"),
    "an unknown field": (lambda content: content.update(more=1), 2, "unknown field `more`"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_exit_codes_and_words(name: str, case: Path, capsys) -> None:
    change, expected, words = WRONG[name]
    edit(case, change)
    code, text, _ = run(capsys, "check", case)
    assert code == expected and words in text and "0 of 1 runs" in text


def test_a_missing_golden_file_fails_and_the_other_cases_are_run(case: Path, tmp_path: Path, capsys) -> None:
    empty = write_case(tmp_path / "empty")
    code, text, _ = run(capsys, "check", empty, case)
    assert code == 2 and "empty: golden: " in text and "is missing; record it" in text and "1 of 2 runs" in text


def test_a_difference_outweighs_what_could_not_be_run(case: Path, tmp_path: Path, capsys) -> None:
    edit(case, lambda content: content.update(fingerprint="x"))
    assert run(capsys, "check", write_case(tmp_path / "empty"), case)[0] == 1


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["check"], "no case is named"),
        (["check", "nowhere"], "no case 'nowhere'"),
        (["check", "@", "--runs", "warp"], "no run of case has 'warp' in its name"),
        (["check", "@", "--runs", "as", "--threads", "1"], "--runs chooses among the runs of a case"),
        (["check", "@", "--tp", "0"], "tp is 0"),
        (["check", "@", "--pp", "2", "--pp-layers", "1"], "pp_layers names 1 stages, but pp is 2"),
        (["check", "@", "--pp-layers", "a"], "is no list of numbers"),
        (["check", "@", "--json", "/nowhere/out.json"], "cannot write /nowhere/out.json"),
        (["check", "@", "--json", "@/golden.json"], "which is read"),
        (["check", "@", "--exchange", "group"], "exchange is group, but no run has more than one rank"),
        (["record", "--force", "@", "--rank-timeout", "5"], "rank_timeout is 5.0, but no run has more than one rank"),
        (["record", "nowhere"], "no case 'nowhere'"),
    ],
)
def test_a_wrong_command_ends_with_one_line_and_code_2(argv: list[str], words: str, case: Path, capsys) -> None:
    code, _, error = run(capsys, *[word.replace("@", str(case)) for word in argv])
    assert code == 2 and words in error and error.count("\n") == 1


def test_runs_of_a_case_and_one_of_the_command_line(case: Path, capsys, tmp_path: Path) -> None:
    runs = [{}, {"engine": "static"}, {"settings": {"prefill_chunk": 3}}, {"arrivals": "reversed", "passes": 2}]
    write_case(case, runs=runs)
    code, text, _ = run(capsys, "check", case)
    assert code == 0 and "4 of 4 runs" in text
    assert run(capsys, "check", case, "--runs", "prefill")[1].count("same ") == 1
    out = tmp_path / "out.json"
    code, text, _ = run(capsys, "check", case, "--engine", "static", "--threads", "1", "--json", out)
    assert code == 0 and "case: static, threads 1" in text
    (found,) = json.loads(out.read_text())
    assert found["same"] and found["exact"] and found["compared_tokens"] == 24 and found["differences"] == []


def test_the_json_tells_each_difference(case: Path, capsys, tmp_path: Path) -> None:
    edit(case, set_in("digests", 4, "0" * 16))
    out = tmp_path / "out.json"
    assert run(capsys, "check", case, "--json", out)[0] == 1
    (difference,) = json.loads(out.read_text())[0]["differences"]
    assert (difference["request"], difference["token"], difference["kind"]) == ("0", 4, "digests")


def test_a_bound_that_does_not_hold_is_a_difference(case: Path, capsys) -> None:
    write_case(case, runs=[{"at_least": {"preemptions": 1}}])
    code, text, _ = run(capsys, "check", case)
    assert code == 1 and "preemptions is 0; it should be at least 1" in text


def test_a_run_out_of_bounds_is_not_recorded(tmp_path: Path, capsys) -> None:
    folder = write_case(tmp_path / "case", at_most={"steps": 2})
    code, _, error = run(capsys, "record", folder)
    assert code == 2 and "this run cannot be recorded" in error and not (folder / "golden.json").exists()


def test_a_request_that_fails_is_not_recorded(tmp_path: Path, capsys, monkeypatch) -> None:
    def broken(*given, **named):
        llm = real(*given, **named)
        llm.model.final_norm.weight.data.fill_(float("nan"))
        return llm

    real = models.LLM
    monkeypatch.setattr(models, "LLM", broken)
    folder = write_case(tmp_path / "case")
    code, _, error = run(capsys, "record", folder)
    assert code == 2 and "request 0 ended with 'error'" in error and not (folder / "golden.json").exists()


def test_unlike_numerics_are_compared_within_the_tolerance_of_the_case(tmp_path: Path, capsys) -> None:
    """The native kernels and the reference add up in another order: not the same bits, and close."""
    pytest.importorskip("brigade.backends.cpu.library").find_kernels() or pytest.skip("the C++ kernels are not built")
    greedy = [{"token_ids": [5, 4, 3, 2, 1]}, {"token_ids": [9, 9, 8]}]
    settings = {"block_size": 32, "kv_blocks": 8}
    folder = write_case(tmp_path / "case", prompts=greedy, settings=settings, runs=[{"backend": "cpu"}])
    assert run(capsys, "record", folder)[0] == 0
    code, text, _ = run(capsys, "check", folder)
    assert code == 2 and "recorded with reference-" in text and "computed with cpu-" in text
    write_case(tmp_path / "case", prompts=greedy, settings=settings, runs=[{"backend": "cpu"}], tolerance=1e-4)
    code, text, _ = run(capsys, "check", folder)
    assert code == 0 and "within the tolerance" in text


def test_runs_of_one_layout_share_a_model_and_another_closes_it(case: Path, capsys, monkeypatch) -> None:
    """Stands for ranks, which are started at the same place."""
    opened, closed = [], []

    def counted(*given, **named):
        opened.append({name: named.pop(name) for name in ("tp", "pp") if name in named})
        llm = real(*given, **named)
        shut = llm.close
        llm.close = lambda: (closed.append(len(opened)), shut())
        return llm

    real = models.LLM
    monkeypatch.setattr(models, "LLM", counted)
    runs = [{}, {"engine": "static"}, {"layout": {"tp": 2}}, {"layout": {"tp": 2}, "arrivals": "together"}, {"layout": {"pp": 2}}]
    write_case(case, runs=runs)
    code, text, _ = run(capsys, "check", case)
    assert code == 0 and "5 of 5 runs" in text
    assert opened == [{}, {"tp": 2}, {"pp": 2}] and closed == [1, 2, 3]


def test_ranks_that_stopped_are_not_used_again_and_the_next_run_has_new_ones(case: Path, capsys, monkeypatch) -> None:
    opened = []

    def stopping(*given, **named):
        opened.append(real(*given, **named))
        if len(opened) == 1:

            def make_engine(kind: str, sampler=None, **settings):
                raise EngineStopped("rank 1 (stage 0, tensor rank 1) died")

            opened[0].make_engine = make_engine
        return opened[-1]

    real = models.LLM
    monkeypatch.setattr(models, "LLM", stopping)
    write_case(case, runs=[{"name": "first"}, {"name": "second"}])
    code, text, _ = run(capsys, "check", case)
    assert code == 2 and len(opened) == 2
    assert "ERROR      case: first: EngineStopped: rank 1 (stage 0, tensor rank 1) died" in text
    assert "same       case: second: " in text


def test_how_ranks_are_run_is_told_to_those_runs_that_have_ranks(case: Path, capsys, monkeypatch) -> None:
    told = []

    def listening(*given, **named):
        names = ("tp", "exchange", "rank_timeout", "import_modules")
        told.append({name: named.pop(name) for name in names if name in named})
        return real(*given, **named)

    real = models.LLM
    monkeypatch.setattr(models, "LLM", listening)
    write_case(case, runs=[{}, {"layout": {"tp": 2}}])
    assert run(capsys, "check", case, "--exchange", "group", "--rank-timeout", "5", "--import", "examples.sampling_rule")[0] == 0
    assert told == [
        {"import_modules": ("examples.sampling_rule",)},
        {"tp": 2, "exchange": "group", "rank_timeout": 5.0, "import_modules": ("examples.sampling_rule",)},
    ]
