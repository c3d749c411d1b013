"""Matrices that nobody ran, for the page that shows them: all rows of the embedded model, with faults where a test wants them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from brigade.checkpoint.load import open_model
from brigade.config import ModelConfig
from brigade.verify.compare import Difference, Differences
from brigade.verify.layout import possible_layouts
from brigade.verify.matrix import Row
from brigade.verify.page import Plan, State
from brigade.verify.prompts import LENGTHS
from brigade.verify.rows import Load, matrix_rows
from tests.verify.builders import record

BEGUN = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
MEASURED = {"seconds": 1.25, "steps": 47.0, "together": 8.0, "preemptions": 2.0, "cached_tokens": 64.0}
DIFFERENT = Differences(
    (
        Difference("3", 0, 5, "digests", "the logits differ (digest 5c0f1fb1c9ff0d5e expected, 1f3a9a8b6cf5d7b1 found)"),
        Difference("3", 0, 5, "logprobs", "log-probability -1.25 expected, -1.2500001192092896 found, 1.19e-07 apart"),
        Difference("3", 0, 9, "ids", "id 12 (log-probability -0.693) expected, id 40 (log-probability -0.694) found"),
    ),
    True, 90, 1.19e-07,
)  # fmt: skip
SAME = Differences((), True, 96, 0.0)
HOSTILE = "<script>alert('x')</script> & \"quoted\" <img src=http://example.invalid/x.png>"


@cache
def embedded() -> ModelConfig:
    return open_model("mini").config


def plan(**changes: Any) -> Plan:
    config = embedded()
    runs = matrix_rows(possible_layouts(config), Load(LENGTHS, [12] * len(LENGTHS)), [1, 2])
    facts = {
        "requests": "8, with 315 ids of prompts and up to 96 of answers",
        "machine": "Example 9000 Processor, 2 cores, 8.0 GiB, Linux-6.1.0-x86_64-with-glibc2.36, Python 3.11.2",
        "command": "brigade verify matrix mini --html /tmp/out/page.html",
    }
    return Plan(**({"runs": runs, "config": config, "model": "mini", "facts": facts, "begun": BEGUN} | changes))


def state(plan: Plan, wrong: Mapping[int, Differences | str] | None = None, done: int | None = None, **changes: Any) -> State:
    """The first `done` rows, all by default. `wrong`: by number a row's differences, or its error."""
    wrong = wrong or {}
    said = record(fingerprint="0f" * 16, numerics_id="cpu-1/bf16-fma/avx2", versions={"brigade-llm": "0.1.0", "torch": "2.11.0"},
                  settings={"formats": "weights bfloat16, cache float32"})  # fmt: skip
    rows = [Row(plan.runs[0], None, MEASURED, record=said)]
    for number, run in enumerate(plan.runs[1:], start=1):
        fault = wrong.get(number, SAME)
        rows.append(Row(run, error=fault) if isinstance(fault, str) else Row(run, fault, MEASURED))
    return State(**({"rows": rows[:done], "now": BEGUN + timedelta(seconds=83)} | changes))
