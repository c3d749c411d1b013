"""Latency: what the clock covers, prompts that no cache knows, the table, the picture, and the command."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from brigade.bench.ceilings import Ceilings
from brigade.bench.floor import Floor
from brigade.bench.gauge import Reading
from brigade.bench.latency import Latency, LatencyConfig, Sample, Spread, check_room, make_prompts, measure_latency, run_batch
from brigade.bench.latency_report import Row, Share, as_json, table
from brigade.bench.picture import draw, nice_step
from brigade.cli.main import main
from brigade.engine.engine import DynamicEngine, StaticEngine
from brigade.errors import ConfigError
from tests.engine.fakes import counting_engine


class Clock:
    """One second later at every look."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.mark.parametrize("kind", [DynamicEngine, StaticEngine])
def test_the_first_token_is_apart(kind) -> None:
    engine = counting_engine(kind, max_step_tokens=64, prefill_chunk=16)
    sample = run_batch(engine, [[1] * 16, [2] * 16, [3] * 16], 5, Clock())
    assert sample == Sample(1.0, (1.0,) * 4, 5.0) and not engine.has_work
    engine.check()


def test_a_prompt_in_chunks_has_its_first_token_after_the_last_chunk() -> None:
    engine = counting_engine(max_step_tokens=8, prefill_chunk=8)
    sample = run_batch(engine, [[1] * 20, [2] * 4], 3, Clock())
    assert sample.first == 4.0 and len(sample.steps) == 2 and sample.total == 6.0


def test_one_token_is_all_prefill() -> None:
    sample = run_batch(counting_engine(), [[1, 2]], 1, Clock())
    assert sample == Sample(1.0, (), 1.0)
    assert Latency(1, (sample,)).per_token is None


def test_every_repetition_has_prompts_of_its_own() -> None:
    config = LatencyConfig(prompt_length=40)
    seen = [prompt for number in range(4) for prompt in make_prompts(config, 97, 3, number)]
    assert len({tuple(prompt) for prompt in seen}) == 12 and all(len(set(prompt)) == 40 for prompt in seen)
    assert make_prompts(config, 97, 3, 0) == seen[:3] != make_prompts(LatencyConfig(prompt_length=40, seed=1), 97, 3, 0)
    assert all(len(prompt) == 40 for prompt in make_prompts(config, 7, 2, 0))


def test_warm_up_runs_are_not_counted() -> None:
    engine = counting_engine()
    calls = []
    found = measure_latency(
        engine, LatencyConfig(8, 3, (1, 4), repeats=3, warmup=2), 97, lambda done, total: calls.append((done, total))
    )
    assert [(one.batch, len(one.samples)) for one in found] == [(1, 3), (4, 3)]
    assert calls[-1] == (10, 10) and len(calls) == 10
    for one in found:
        assert one.total.low <= one.total.median <= one.total.p90 <= one.total.p99 <= one.total.high
        assert len([step for sample in one.samples for step in sample.steps]) == 3 * 2


def test_the_machine_is_read_beside_every_repetition() -> None:
    """Before the first counted run and after each; what counts for a run is the better of both sides."""
    readings = iter(Reading(speed, 10 - speed) for speed in (1.0, 3.0, 2.0, 8.0, 5.0, 4.0))
    found = measure_latency(counting_engine(), LatencyConfig(8, 3, (1, 4), 2, 2), 97, gauge=lambda: next(readings))
    assert next(readings, None) is None
    assert [one.readings for one in found] == [(Reading(3.0, 9.0), Reading(3.0, 8.0)), (Reading(8.0, 5.0), Reading(5.0, 6.0))]
    assert measure_latency(counting_engine(), LatencyConfig(8, 3, (1,), 1, 0), 97)[0].readings == ()


def test_what_others_took_is_not_told_where_other_ranks_compute(monkeypatch) -> None:
    monkeypatch.setattr("brigade.bench.latency.Others.share", lambda self: 0.25)
    config = LatencyConfig(8, 3, (1,), 1, 0)
    assert measure_latency(counting_engine(), config, 97)[0].others == 0.25
    assert measure_latency(counting_engine(), config, 97, is_alone=False)[0].others is None


def test_a_spread() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, pytest.approx(2.8), pytest.approx(2.98))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"prompt_length": 0}, "prompt-length is 0"),
        ({"output_length": 0}, "output-length is 0"),
        ({"repeats": 0}, "repeats is 0"),
        ({"warmup": -1}, "warmup is -1"),
        ({"batch_sizes": (1, 0)}, "each 1 or more"),
        ({"batch_sizes": (2, 2)}, "2 twice"),
    ],
)
def test_wrong_settings_are_refused(settings, words) -> None:
    with pytest.raises(ConfigError, match=words):
        LatencyConfig(**settings)


def test_a_batch_that_would_have_to_wait_is_refused() -> None:
    check_room(LatencyConfig(8, 8, (4,)), counting_engine())
    for settings, words in (
        ((8, 8, (5,)), "max_batch_size is 4, below the batch size 5"),
        ((500, 13, (1,)), "513 positions"),
        ((200, 9, (4,)), "needs 104 KV blocks"),
    ):
        with pytest.raises(ConfigError, match=words):
            check_room(LatencyConfig(*settings), counting_engine())


ROWS = [
    Row(
        Latency(1, (Sample(0.2, (0.1, 0.1), 0.4), Sample(0.3, (0.1, 0.2), 0.6)), (Reading(35.25e9, 441e9), Reading(60e9, 438e9))),
        (Floor(0.1, (0.05, 0.05)), Floor(0.09, (0.03, 0.03))),
    ),
    Row(Latency(16, (Sample(1.0, (), 1.0),)), (Floor(2.0, ()),)),
]


def test_a_share_is_the_median_of_each_repetitions_own_and_not_clamped() -> None:
    first, second = ROWS
    assert first.total == Share(pytest.approx((0.2 + 0.15) / 2), pytest.approx((0.2 / 0.4 + 0.15 / 0.6) / 2))
    assert first.first == Share(pytest.approx(0.095), pytest.approx((0.1 / 0.2 + 0.09 / 0.3) / 2))
    assert first.per_token == Share(pytest.approx(0.04), pytest.approx((0.3 + 0.5) / 2))  # of 0.5, 0.5, 0.3 and 0.15
    assert second.total.share == 2.0 and second.per_token is None
    lines = table(ROWS)
    assert lines[2].split()[1:3] == ["35-60", "438-441"] and lines[3].split()[1:3] == ["-", "-"]
    assert "37.5%" in lines[2] and "500" in lines[2] and "200.0%" in lines[3] and lines[3].rstrip().endswith("-")
    assert len({len(line) for line in lines[1:]}) == 1
    facts = as_json(first)
    assert facts["total"]["share"] == first.total.share and facts["per_token"]["floor"] == pytest.approx(0.04)
    assert [reading["bandwidth"] for reading in facts["readings"]] == [35.25e9, 60e9]
    assert as_json(second)["per_token"] is None and len(facts["samples"]) == 2


def test_the_picture_is_whole_and_escaped() -> None:
    root = ElementTree.fromstring(draw(ROWS, "a <b> & c", "note"))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "a <b> & c" in texts and {"1", "16", "38%", "200%"} <= set(texts)
    _, _, width, height = map(float, root.get("viewBox").split())
    for box in root.iter("{http://www.w3.org/2000/svg}rect"):
        if box.get("width") != "100%":
            assert float(box.get("height")) >= 0 and float(box.get("x")) >= 0 and 0 <= float(box.get("y")) <= height
            assert float(box.get("x")) + float(box.get("width")) <= width


def test_steps_of_the_axis_are_round() -> None:
    assert [nice_step(value) for value in (6, 70, 556, 0.4, 1200)] == [1, 20, 100, pytest.approx(0.1), 200]
    assert all(nice_step(a) <= nice_step(b) for a, b in pairwise(range(1, 3000, 7)))


@pytest.fixture
def ceilings(monkeypatch) -> Ceilings:
    """The real ones take seconds; they have a test of their own."""
    found = Ceilings(1e9, {"float32": 1e11, "bfloat16": 1e11}, 1, "torch sum", 1 << 20)
    monkeypatch.setattr("brigade.bench.ceilings.measure_ceilings", lambda threads, device: found)
    return found


@pytest.mark.parametrize("engine", ["dynamic", "static"])
def test_the_command(capsys, tmp_path: Path, ceilings: Ceilings, engine: str) -> None:
    out, picture = tmp_path / "out.json", tmp_path / "out.svg"
    code = main(
        ["bench", "latency", "--prompt-length", "24", "--output-length", "3", "--batch-sizes", "1", "3", "--repeats", "2",
         "--engine", engine, "--json", str(out), "--svg", str(picture)]
    )  # fmt: skip
    text = capsys.readouterr().out
    first = text.splitlines()[0]
    assert "weights: bfloat16" in first and "arithmetic: float32" in first and "cache: bfloat16" in first
    assert "other processes took " in text
    assert code == 0 and "ceilings: memory read 1.0 GB/s" in text and text.splitlines()[-1].split()[0] == "3"
    facts = json.loads(out.read_text())
    assert [row["batch"] for row in facts["rows"]] == [1, 3] and facts["ceilings"]["bandwidth"] == 1e9
    assert all(len(row["samples"]) == 2 and row["first_token"]["floor"] > 0 for row in facts["rows"])
    assert facts["engine_config"]["max_batch_size"] == 3 and facts["engine_config"]["max_model_len"] == 27
    assert facts["engine_config"]["max_step_tokens"] == 72 and facts["engine_config"]["prefill_chunk"] == 24
    assert facts["engine_config"]["prefix_cache"] is (engine == "static"), "which the static engine never has"
    assert all(len(sample["steps"]) == 2 for row in facts["rows"] for sample in row["samples"])
    ElementTree.fromstring(picture.read_text())


def test_a_share_is_one_of_what_was_fastest_though_the_loop_is_read_beside_each_run(capsys, tmp_path: Path, monkeypatch) -> None:
    rates, loops = dict.fromkeys(("float32", "bfloat16"), 1e11), dict.fromkeys(("float32", "bfloat16"), 4e10)
    found = Ceilings(1e9, rates, 1, "kernels", 1 << 20, "avx2", 1e9, rates, loops)
    monkeypatch.setattr("brigade.bench.ceilings.measure_ceilings", lambda threads, device: found)
    monkeypatch.setattr("brigade.bench.gauge.make_gauge", lambda *rest: lambda: Reading(1e15, 2e10))
    out = tmp_path / "out.json"
    sizes = ["--prompt-length", "24", "--output-length", "1", "--batch-sizes", "1", "--repeats", "1", "--backend", "cpu"]
    assert main(["bench", "latency", *sizes, "--json", str(out)]) == 0
    (row,) = json.loads(out.read_text())["rows"]
    assert row["readings"] == [{"bandwidth": 1e15, "rate": 5e10}], "torch had 2.5 times what the loop had"
    assert "float32 100, bfloat16 100 faster, and counted" in capsys.readouterr().out


BAD = {
    "no batch": (["--batch-sizes", "0"], "each 1 or more"),
    "too long": (["--prompt-length", "1020"], "are 1028 positions; mini was made for 1024"),
    "small engine": (["--max-batch-size", "2"], "max_batch_size is 2, below the batch size 16"),
    "few blocks": (["--kv-blocks", "4"], "needs 48 KV blocks"),
    "short engine": (["--max-model-len", "100"], "136 positions, but the engine was made for 100"),
    "useless cache": (["--no-prefix-cache"], "no effect on latency"),
    "unwritable picture": (["--svg", "nowhere/at/all.svg"], "cannot write"),
    "no number": (["--repeats", "few"], "--repeats"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_input_is_one_line_and_code_2(case: str, capsys, ceilings: Ceilings) -> None:
    argv, expected = BAD[case]
    code = main(["bench", "latency", *argv])
    captured = capsys.readouterr()
    assert code == 2 and captured.out == ""
    assert captured.err.startswith("brigade: error: ") and expected in captured.err and captured.err.count("\n") == 1
