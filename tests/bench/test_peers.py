"""Peers: the protocol, turns, peers that die or hang, ratios and bars, the tables, the checkpoint, and the command."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from benchmarks.peers.alternation import Measured, Plan, Sample, alternate
from benchmarks.peers.bars import Bar, bars, judge
from benchmarks.peers.figures import Figures
from benchmarks.peers.fleet import Fleet, Harbour
from benchmarks.peers.grid import Grid
from benchmarks.peers.protocol import Answer, answer_all
from benchmarks.peers.report import as_json, grids
from benchmarks.peers.worker import Worker, WorkerError, WorkerLost, last_line
from benchmarks.peers.works import WORKS, Cell, cells, make_prompts
from brigade.cli import bench_peers

ROOT = Path(__file__).parents[2]
ONE, TWO = Cell("latency", 1, 4, 2), Cell("latency", 2, 4, 2)
THROUGHPUT, STREAM = cells(["throughput", "stream"], [])
LIMIT = 60.0
LOAD = {"do": "load", "folder": "", "settings": {}, "threads": 2}


def request(prompts: int = 1) -> dict:
    return {"do": "generate", "prompts": [[7, 8]] * prompts, "new_tokens": 3}


# The protocol


class Two:
    about = "two"

    def generate(self, prompts, new_tokens) -> Answer:
        return Answer([[1] * 2 for _ in prompts], 0.5)


def test_a_question_a_line_and_an_answer_a_line() -> None:
    asked = [LOAD, {"do": "generate", "prompts": [[5]], "new_tokens": 2}]
    replies = io.StringIO()
    answer_all(lambda setup: Two(), io.StringIO("".join(json.dumps(one) + "\n" for one in asked)), replies)
    about, answer = map(json.loads, replies.getvalue().splitlines())
    assert about == {"about": "two"} and answer["ids"] == [[1, 1]] and answer["first"] == 0.5 and answer["seconds"] >= 0


def test_an_answer_of_the_wrong_length_is_no_answer(capsys) -> None:
    replies = io.StringIO()
    asked = [LOAD, {"do": "generate", "prompts": [[5]], "new_tokens": 9}, {"do": "generate", "prompts": [[5]], "new_tokens": 2}]
    answer_all(lambda setup: Two(), io.StringIO("".join(json.dumps(one) + "\n" for one in asked)), replies)
    _, wrong, right = map(json.loads, replies.getvalue().splitlines())
    assert "asked 1 requests for 9 tokens each, got [2]" in wrong["error"] and right["ids"] == [[1, 1]]


# A worker process


def fake(how: str, folder: Path) -> Worker:
    return Worker([sys.executable, "-m", "tests.bench.peer_worker", how], folder / f"{how}.log", cwd=ROOT)


def sleeps(worker: Worker) -> bool:
    """A signal takes a moment to arrive."""
    process, until = psutil.Process(worker._process.pid), time.monotonic() + 20
    while process.status() != psutil.STATUS_STOPPED and time.monotonic() < until:
        time.sleep(0.01)
    return process.status() == psutil.STATUS_STOPPED


def test_a_worker_sleeps_between_its_turns(tmp_path: Path) -> None:
    with closing(fake("works", tmp_path)) as worker:
        assert worker.ask(LOAD, LIMIT) == {"about": "fake with 2 threads"}
        assert sleeps(worker)
        assert worker.ask(request(2), LIMIT)["ids"] == [[7, 7, 7]] * 2
        assert sleeps(worker)
        assert "greeting" in (tmp_path / "works.log").read_text()


def test_a_worker_that_dies_leaves_its_last_words(tmp_path: Path) -> None:
    with closing(fake("dies", tmp_path)) as worker:
        worker.ask(LOAD, LIMIT)
        with pytest.raises(WorkerLost, match="ended with code 3; its last words: out of luck"):
            worker.ask(request(2), LIMIT)
        with pytest.raises(WorkerLost):
            worker.ask(request(1), LIMIT)


def test_what_a_dead_worker_started_goes_with_it(tmp_path: Path) -> None:
    with closing(fake("orphans", tmp_path)) as worker:
        worker.ask(LOAD, LIMIT)
        with pytest.raises(WorkerLost, match="ended with code 4"):
            worker.ask(request(2), LIMIT)
        child, until = int(last_line(tmp_path / "orphans.log")), time.monotonic() + 20
        while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE and time.monotonic() < until:
            time.sleep(0.01)
        assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_a_worker_killed_from_outside_is_lost_with_its_signal(tmp_path: Path) -> None:
    with closing(fake("works", tmp_path)) as worker:
        worker.ask(LOAD, LIMIT)
        os.kill(worker._process.pid, signal.SIGKILL)
        with pytest.raises(WorkerLost, match="SIGKILL"):
            worker.ask(request(), LIMIT)


def test_a_worker_that_hangs_is_killed(tmp_path: Path) -> None:
    with closing(fake("hangs", tmp_path)) as worker:
        worker.ask(LOAD, LIMIT)
        begun = time.monotonic()
        with pytest.raises(WorkerLost, match="no answer within 0.5 s; killed"):
            worker.ask(request(2), 0.5)
        assert time.monotonic() - begun < 30 and worker._process.poll() == -signal.SIGKILL


def test_a_worker_that_refuses_stays(tmp_path: Path) -> None:
    with closing(fake("narrow", tmp_path)) as worker:
        with pytest.raises(WorkerError, match="RuntimeError: this processor is too old"):
            worker.ask(LOAD | {"settings": {"refuse": True}}, LIMIT)
        worker.ask(LOAD, LIMIT)
        with pytest.raises(WorkerError, match="ValueError: one request at a time"):
            worker.ask(request(2), LIMIT)
        assert worker.ask(request(1), LIMIT)["ids"] == [[7, 7, 7]]


# Turns


class Scripted:
    """Answers from a script: seconds, or what goes wrong."""

    def __init__(self, name: str, calls: list, answers=()) -> None:
        self.name, self.calls, self.answers = name, calls, list(answers)

    def ask(self, request, limit):
        self.calls.append((self.name, len(request["prompts"]), request["prompts"][0][0]))
        answer = self.answers.pop(0) if self.answers else 1.0
        if isinstance(answer, BaseException):
            raise answer
        return {"seconds": answer, "first": None, "others": 0.0, "ids": [[1] * request["new_tokens"]] * len(request["prompts"])}


def plan(repeats: int = 2, warmup: int = 1) -> Plan:
    return Plan([ONE, TWO], repeats, warmup, 1000, LIMIT)


def all_rounds(*args) -> dict[str, Measured]:
    """What is known after the last one."""
    *_, found = alternate(*args)
    return found


def test_engines_take_turns_within_every_repetition_of_every_cell() -> None:
    calls: list = []
    found = all_rounds({name: Scripted(name, calls, [9.0, 1.0, 2.0, 9.0, 3.0, 4.0]) for name in "abc"}, plan())
    assert [name for name, _, _ in calls] == list("abc") * 6
    assert [batch for _, batch, _ in calls] == [1] * 9 + [2] * 9
    firsts = [first for _, _, first in calls]
    assert all(len(set(firsts[k : k + 3])) == 1 for k in range(0, 18, 3)), "a repetition's prompts are the same for all"
    assert len(set(firsts)) == 6, "and new in each"
    for measured in found.values():
        assert [sample.seconds for sample in measured.samples[ONE]] == [1.0, 2.0], "warm-up is not counted"
        assert [sample.seconds for sample in measured.samples[TWO]] == [3.0, 4.0]


def test_one_that_is_lost_does_not_sink_the_run() -> None:
    calls: list = []
    found = all_rounds({"a": Scripted("a", calls), "b": Scripted("b", calls, [1.0, WorkerLost("died of SIGSEGV")])}, plan())
    assert found["b"].lost == "batch 1: died of SIGSEGV" and [name for name, _, _ in calls].count("b") == 2
    assert len(found["a"].samples[ONE]) == len(found["a"].samples[TWO]) == 2 and not found["a"].lost


def test_one_that_fails_in_a_cell_is_asked_again_in_the_next() -> None:
    calls: list = []
    found = all_rounds({"a": Scripted("a", calls, [WorkerError("too wide")])}, plan())
    assert found["a"].failures == {ONE: "too wide"} and len(found["a"].samples[TWO]) == 2 and len(calls) == 4


def test_work_an_engine_does_not_do_is_not_asked_of_it() -> None:
    calls: list = []
    all_rounds({"a": Scripted("a", calls)}, plan(), lambda label, cell: cell == TWO)
    assert {batch for _, batch, _ in calls} == {2}


def test_a_round_counts_once_all_had_their_turn() -> None:
    """A Ctrl-C in the turn of the second: the first one's sample of that round is dropped, what came before stays."""
    interrupted = [9.0, 1.0, KeyboardInterrupt()]
    calls, found = [], {}
    with pytest.raises(KeyboardInterrupt):
        for known in alternate({"a": Scripted("a", calls), "b": Scripted("b", calls, interrupted)}, plan()):
            found = known
    assert [name for name, _, _ in calls] == list("ababab")
    assert {label: len(measured.samples[ONE]) for label, measured in found.items()} == {"a": 1, "b": 1}


def test_the_works() -> None:
    assert [cell.batch for cell in cells(list(WORKS), [1, 16])] == [1, 16, 32, 1]
    assert THROUGHPUT.figure(8.0) == "256" and STREAM.figure(1.234) == "1.23" and ONE.figure(0.2504) == "250"
    prompts = make_prompts(THROUGHPUT, 0, 50304)
    assert len(prompts) == 32 and all(len(prompt) == 128 and max(prompt) < 50304 for prompt in prompts)
    assert prompts == make_prompts(THROUGHPUT, 0, 50304) != make_prompts(THROUGHPUT, 1, 50304)
    assert list(bench_peers.WORKS) == list(WORKS)


# Figures and bars


def measured(**times: list[float]) -> Measured:
    found = Measured()
    for name, seconds in times.items():
        cell = {"one": ONE, "two": TWO, "throughput": THROUGHPUT, "stream": STREAM}[name]
        found.samples[cell] = [Sample(each, each / 2, ((4, 5),) * cell.batch) for each in seconds]
    return found


BITS = {"brigade/bf16": 16, "brigade/int8": 8, "slow/bf16": 16, "slow/fp32": 32, "fast/int8": 8}


@pytest.fixture
def figures() -> Figures:
    """Somebody else was busy during the heat of `fast`: ours took twice as long there."""
    heats = {
        "slow": {
            "brigade/bf16": measured(one=[1.0, 1.0, 7.0], stream=[1.0]), "brigade/int8": measured(one=[0.5]),
            "slow/bf16": measured(one=[1.2, 1.2, 9.0], stream=[1.5]), "slow/fp32": measured(one=[3.0]),
        },
        "fast": {
            "brigade/bf16": measured(one=[2.0, 2.0, 2.0]), "brigade/int8": measured(one=[1.0]), "fast/int8": measured(one=[1.8]),
        },
    }  # fmt: skip
    return Figures(heats, BITS)


def test_ratios_are_of_medians_of_one_heat(figures: Figures) -> None:
    assert figures.seconds("brigade/bf16", ONE, "slow") == 1.0 and figures.seconds("brigade/bf16", ONE) == 2.0
    assert figures.ratio("slow/bf16", "brigade/bf16", ONE) == pytest.approx(1.2)
    assert figures.ratio("fast/int8", "brigade/bf16", ONE) == pytest.approx(0.9)
    assert figures.ratio("fast/int8", "brigade/bf16", STREAM) is None
    assert figures.counterpart("slow/fp32", ONE) == "brigade/bf16" and figures.counterpart("fast/int8", ONE) == "brigade/int8"


def test_the_best_peer_is_the_one_nearest_to_ours_in_its_own_heat(figures: Figures) -> None:
    verdict = judge(figures, Bar(ONE, (8, 4), (4, 8, 16, 32), 1.6))
    assert (verdict.ours, verdict.peer, verdict.holds) == ("brigade/int8", "fast/int8", True)
    assert verdict.ratio == pytest.approx(1.8)
    verdict = judge(figures, Bar(ONE, (16,), (16,), 1.3))
    assert (verdict.peer, verdict.holds) == ("slow/bf16", False) and verdict.ratio == pytest.approx(1.2)
    assert judge(figures, Bar(STREAM, (4,), (4,), 1.4)).holds is None


def test_the_bars_of_a_whole_run() -> None:
    found = [(bar.cell.batch, bar.cell.work, bar.ours, bar.wanted) for bar in bars(cells(list(WORKS), [1, 16, 3]))]
    assert (1, "latency", (16,), 1.3) in found and (16, "latency", (16,), 1.1) in found
    assert [bar for bar in found if bar[0] == 3] == [(3, "latency", (8, 4), 1.6)]
    assert (32, "throughput", (16,), 1.35) in found and (32, "throughput", (8,), 2.2) in found
    assert sum(work == "stream" for _, work, _, _ in found) == 3


def test_agreement_is_of_first_tokens() -> None:
    other = Measured()
    other.samples[TWO] = [Sample(1.0, None, ((4, 9), (3, 5)))]
    figures = Figures({"x": {"brigade/bf16": measured(two=[1.0]), "x/bf16": other}}, {"brigade/bf16": 16, "x/bf16": 16})
    assert figures.agreement("x/bf16", "brigade/bf16") == 0.5 and figures.agreement("x/bf16", "x/none") is None


# Tables


def empty_fleet(tmp_path: Path) -> Fleet:
    return Fleet(Harbour(tmp_path, tmp_path, "gpt-345m", 0, 2, LIMIT), lambda line: None)


def test_the_tables(figures: Figures, tmp_path: Path) -> None:
    fleet = empty_fleet(tmp_path)
    fleet.skipped["gone/int4"] = "not installable: no such | version"
    fleet.about["brigade/int8"] = "weights: int8; arithmetic: exact; cache: bfloat16"
    figures.heats["slow"]["slow/fp32"].lost = "stream: died of SIGKILL"
    shown = grids(figures, fleet, [ONE, STREAM])
    assert [grid.head[0] for grid in shown] == ["engine", "engine", "engine", "peer", "cell", "engine"]
    engines, absolute, _, ratios, judged, missing = shown
    assert ["brigade/int8", "8", "weights: int8; arithmetic: exact; cache: bfloat16"] in engines.rows
    assert ["brigade/int8", "750", "-", "100%"] in absolute.rows and ["slow/bf16", "1200", "1.50", "100%"] in absolute.rows
    assert ["fast/int8", "1.80", "-"] in ratios.rows and ["slow/bf16", "1.20", "1.50"] in ratios.rows
    assert [row[-1] for row in judged.rows] == ["missed", "holds", "holds", "not measured", "not measured"]
    assert ["slow/fp32", "lost at stream: died of SIGKILL"] in missing.rows
    assert "| gone/int4 | not installable: no such \\| version |" in missing.markdown()
    facts = json.loads(json.dumps(as_json(figures, fleet, [ONE, STREAM], {"model": "m"})))
    assert facts["engines"][0]["heats"]["slow"]["cells"][0]["seconds"] == [1.0, 1.0, 7.0] and facts["skipped"]
    assert [bar["holds"] for bar in facts["bars"]] == [False, True, True, None, None]


def test_a_grid_is_aligned() -> None:
    grid = Grid("title", ["engine", "ms"], [["a/b", "5"], ["long/name", "1234"]])
    assert grid.text() == ["title", "engine       ms", "a/b           5", "long/name  1234"]
    assert grid.markdown()[2:] == ["| engine | ms |", "| --- | --- |", "| a/b | 5 |", "| long/name | 1234 |"]


def test_shares_of_others_are_those_of_every_sample(figures: Figures) -> None:
    assert figures.others() == []
    found = Measured()
    found.samples[ONE] = [Sample(1.0, None, ((1,),), share) for share in (0.2, None, 0.3)]
    assert Figures({"x": {"x/bf16": found}}, {"x/bf16": 16}).others() == [0.2, 0.3]
