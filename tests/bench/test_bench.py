"""Workloads are functions of their seed; reports count what happened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from brigade.bench.overhead import measure
from brigade.bench.report import json_report, output_hash, percentile, text_report, unique_outputs
from brigade.bench.runner import run_workload
from brigade.bench.workload import WorkloadConfig, simulate
from brigade.cli.main import main
from brigade.engine.engine import StaticEngine
from brigade.engine.sampling import SamplingParams
from tests.engine.fakes import counting_engine


def test_a_workload_is_a_function_of_its_seed() -> None:
    config = WorkloadConfig(num_requests=20, seed=3)
    assert simulate(config, 97) == simulate(config, 97)
    assert simulate(config, 97) != simulate(WorkloadConfig(num_requests=20, seed=4), 97)


def test_lengths_stay_in_their_range() -> None:
    config = WorkloadConfig(num_requests=300, prompt_length=(3, 9), output_length=(2, 50), lengths="skewed")
    requests = simulate(config, 97)
    assert {len(r.prompt) for r in requests} == set(range(3, 10))
    assert min(r.max_tokens for r in requests) == 2 and 40 < max(r.max_tokens for r in requests) <= 50


def test_poisson_arrivals_have_their_rate() -> None:
    requests = simulate(WorkloadConfig(requests_per_second=50, duration=40, seed=1), 97)
    assert abs(len(requests) - 2000) < 5 * 2000**0.5
    assert all(a.at_second < b.at_second < 40 for a, b in zip(requests, requests[1:], strict=False))


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("arrival", [{}, {"requests_per_step": 2}, {"requests_per_second": 200.0, "duration": 0.1}])
def test_every_request_is_answered_in_full(kind: str, arrival: dict) -> None:
    engine = counting_engine(StaticEngine) if kind == "static" else counting_engine()
    workload = simulate(WorkloadConfig(num_requests=9, prompt_length=(1, 20), output_length=(1, 9), **arrival), 97)
    run = run_workload(engine, kind, workload)
    assert [len(output.token_ids) for output in run.outputs] == [request.max_tokens for request in workload]
    assert run.output_tokens == sum(request.max_tokens for request in workload)
    assert 0 < run.steps <= engine.steps + 9
    engine.check()
    facts = json_report(run)
    assert len(facts["requests"]) == len(workload) and facts["throughput"] == run.output_rate
    assert any("output tokens/s" in line for line in text_report(run))


def test_the_same_prompt_and_answer_are_counted_once() -> None:
    workload = simulate(WorkloadConfig(num_requests=6, output_length=(4, 4)), 97, [[1, 2], [3], [1, 2], [3], [3], [3]])
    run = run_workload(counting_engine(), "dynamic", workload)
    assert unique_outputs(run) == [("1 2", [(2, 4, output_hash([3, 4, 5, 6]))]), ("3", [(4, 4, output_hash([4, 5, 6, 7]))])]


def test_percentiles_interpolate() -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], 50) == 2.5
    assert percentile([5.0], 99) == 5.0


def test_overhead_measures_steps_of_all_requests() -> None:
    found = measure("greedy", SamplingParams(temperature=0.0, max_tokens=900), 97, None, requests=4, steps=20)
    assert found.steps == 20 and 0 < found.median <= found.p99 < 1.0


def test_both_engines_in_one_run_give_equal_tokens(capsys, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    code = main(
        ["bench", "throughput", "--engine", "both", "--num-requests", "6", "--output-length", "2", "12", "--kv-blocks", "32",
         "--max-batch-size", "3", "--json", str(out)]
    )  # fmt: skip
    text = capsys.readouterr().out
    assert code == 0 and "tokens of all requests equal" in text and "KV" in text.splitlines()[0]
    facts = json.loads(out.read_text())
    assert facts["same_tokens"] is True and [run["engine"] for run in facts["runs"]] == ["static", "dynamic"]
