"""`lm-evaluation-harness` asks with `local-completions`; its log-likelihoods are those of the engine, to the last bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from brigade import LLM, SamplingParams
from brigade.checkpoint.load import EMBEDDED
from tests.serve.servers import Running

pytestmark = pytest.mark.slow

WHY = "lm-evaluation-harness is not installed (it brings 40 packages): pip install 'lm_eval[api]'"
ROWS = [
    {"text": "import", "right": "os", "wrong": "zzz", "answer": 0},
    {"text": "for i in", "right": "range(10)", "wrong": "return", "answer": 0},
    {"text": "def test(self):\n    return", "right": "None", "wrong": "%%%%", "answer": 0},
    {"text": "class Test(unittest.TestCase):\n    def", "right": "test_a(self)", "wrong": "0 0 0", "answer": 0},
]
CHOICES = {
    "task": "python_choices", "dataset_path": "json", "test_split": "test", "output_type": "multiple_choice",
    "doc_to_text": "{{text}}", "doc_to_choice": "{{[right, wrong]}}", "doc_to_target": "{{answer}}", "target_delimiter": " ",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}], "num_fewshot": 0,
}  # fmt: skip
WORDS = {
    "task": "python_words", "dataset_path": "json", "test_split": "test", "output_type": "generate_until",
    "doc_to_text": "{{text}}", "doc_to_target": "{{right}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6, "do_sample": False},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}], "num_fewshot": 0,
}  # fmt: skip


@pytest.fixture
def results(server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    evaluator = pytest.importorskip("lm_eval.evaluator", reason=WHY)
    pytest.importorskip("tenacity", reason=WHY)
    from lm_eval.tasks import TaskManager

    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    for task in (CHOICES, WORDS):
        settings = task | {"dataset_kwargs": {"data_files": {"test": str(data)}}}
        (tasks / f"{task['task']}.yaml").write_text(json.dumps(settings))  # JSON is YAML too
    return evaluator.simple_evaluate(
        model="local-completions",
        model_args={
            "model": "mini", "base_url": f"{server.url}/v1/completions", "tokenizer": str(EMBEDDED),
            "tokenizer_backend": "huggingface", "tokenized_requests": True, "max_length": 1024, "num_concurrent": 4,
            "max_retries": 1,
        },
        tasks=["python_choices", "python_words"], task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        log_samples=True, bootstrap_iters=0,
    )  # fmt: skip


def said_of(llm: LLM, context: str, continuation: str) -> float:
    """The log-likelihood of a continuation as the engine says it."""
    ids, start = llm.tokenizer.encode(context + continuation), len(llm.tokenizer.encode(context))
    (output,) = llm.generate([ids], SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=1))
    return sum(row.logprob for row in output.prompt_logprobs[start:])


def test_tasks_of_a_local_file(results: dict, llm: LLM) -> None:
    choices, words = results["samples"]["python_choices"], results["samples"]["python_words"]
    assert len(choices) == len(words) == len(ROWS)
    for sample in choices:
        row = sample["doc"]
        assert [said[0][0] for said in sample["resps"]] == [
            said_of(llm, row["text"], f" {row[name]}") for name in ("right", "wrong")
        ]  # equal, not nearly so
    assert results["results"]["python_choices"]["acc,none"] == 1.0
    for sample in words:
        (expected,) = llm.generate([sample["doc"]["text"]], SamplingParams(max_tokens=6, temperature=0, stop=["\n"]))
        assert sample["resps"][0][0] == expected.text
