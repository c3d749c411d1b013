"""Feed a workload to an engine as it would arrive, and keep what happened to each request."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from brigade.bench.workload import Simulated
from brigade.engine.engine import Engine
from brigade.engine.outputs import RequestOutput
from brigade.engine.sampling.params import SamplingParams


@dataclass(frozen=True)
class Run:
    engine: str
    seconds: float
    steps: int
    outputs: list[RequestOutput]

    @property
    def output_tokens(self) -> int:
        return sum(len(output.token_ids) for output in self.outputs)

    @property
    def prompt_tokens(self) -> int:
        return sum(len(output.prompt_token_ids) for output in self.outputs)

    @property
    def output_rate(self) -> float:
        return self.output_tokens / self.seconds


def run_workload(
    engine: Engine,
    kind: str,
    workload: Sequence[Simulated],
    base: dict[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Run:
    """Every request goes to its end: end-of-text is ignored, so that the lengths are the workload's."""
    settings = {"temperature": 0.0, "ignore_eos": True} | (base or {})
    begun, first_step, done, index = engine.clock(), engine.steps, 0, 0
    while index < len(workload) or engine.has_work:
        while index < len(workload) and _has_come(workload[index], engine, begun, first_step):
            request = workload[index]
            moment = None if request.at_second is None else begun + request.at_second
            params = SamplingParams(max_tokens=request.max_tokens, **settings)
            engine.submit(request.prompt, params, request_id=str(request.number), arrival=moment)
            index += 1
        if not engine.has_work:
            if workload[index].at_second is not None:  # nothing to do until the next one comes
                time.sleep(max(begun + workload[index].at_second - engine.clock(), 0.0))
            else:
                first_step -= 1  # an idle step: the next ones come
            continue
        done += sum(delta.finish_reason is not None for delta in engine.step())
        if progress is not None:
            progress(done, len(workload))
    seconds = engine.clock() - begun
    outputs = [engine.take_output(str(request.number)) for request in workload]
    return Run(kind, seconds, engine.steps - first_step, outputs)


def _has_come(request: Simulated, engine: Engine, begun: float, first_step: int) -> bool:
    if request.at_second is not None:
        return engine.clock() - begun >= request.at_second
    return engine.steps - first_step >= request.at_step
