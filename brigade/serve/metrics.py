"""`/metrics` for Prometheus: vLLM's names with our prefix, so that its dashboards need one change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from brigade.serve.record import Record, clock

SECONDS = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
    80.0,
    160.0,
    640.0,
)
GAPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0)
TOKENS = tuple(float(1 << power) for power in range(0, 18))
REASONS = ("bad_request", "headers_too_large", "timeout", "busy", "tls")  # of what the protocol refuses
TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """`state` gives the numbers of this moment by their names: what runs and waits."""

    def __init__(self, model: str, state: Callable[[], dict[str, float]]) -> None:
        self.registry = CollectorRegistry()
        self._label = {"model_name": model}

        def counter(name: str, said: str, *labels: str) -> Any:
            made = Counter(f"brigade:{name}", said, ["model_name", *labels], registry=self.registry)
            return made if labels else made.labels(**self._label)

        def histogram(name: str, said: str, buckets: tuple[float, ...]) -> Any:
            made = Histogram(f"brigade:{name}", said, ["model_name"], buckets=buckets, registry=self.registry)
            return made.labels(**self._label)

        self._prompt_tokens = counter("prompt_tokens", "Tokens of prompts.")
        self._tokens = counter("generation_tokens", "Tokens that were generated.")
        self._queries = counter("prefix_cache_queries", "Tokens of prompts that were looked for in the prefix cache.")
        self._hits = counter("prefix_cache_hits", "Tokens of prompts that were found there.")
        self._preemptions = counter("num_preemptions", "Times that a request had to give up its place.")
        self._finished = counter("request_success", "Answers that ended, by their reason.", "finished_reason")
        self._failed = counter("request_errors", "Requests that were answered with an error, by its status.", "status")
        self._gone = counter("request_cancelled", "Requests whose clients went away.")
        self._refused = counter("connections_refused", "Connections that were ended before there was a request.", "reason")
        for reason in REASONS:
            self._refused.labels(**self._label, reason=reason)  # there from the beginning, at 0
        self._first = histogram("time_to_first_token_seconds", "From the request to its first token.", SECONDS)
        self._gap = histogram("inter_token_latency_seconds", "Between one token and the next.", GAPS)
        self._whole = histogram("e2e_request_latency_seconds", "From the request to its end.", SECONDS)
        self._of_prompt = histogram("request_prompt_tokens", "Tokens of a request's prompts.", TOKENS)
        self._of_answer = histogram("request_generation_tokens", "Tokens of a request's answers.", TOKENS)
        self.registry.register(_State(state, model))

    def first_token(self, seconds: float) -> None:
        self._first.observe(seconds)

    def next_tokens(self, seconds: float, count: int) -> None:
        for _ in range(count):
            self._gap.observe(seconds / count)

    def refused(self, reason: str) -> None:
        self._refused.labels(**self._label, reason=reason).inc()

    def ended(self, record: Record) -> None:
        if record.is_gone or record.status is None:
            self._gone.inc()
        elif record.status >= 400 or record.error is not None:
            self._failed.labels(**self._label, status=str(record.status)).inc()
        if not record.is_job:
            return
        self._prompt_tokens.inc(record.prompt_tokens)
        self._queries.inc(0 if record.is_gone else record.prompt_tokens)  # how many were found is told with the end
        self._hits.inc(record.cached_tokens)
        self._tokens.inc(record.tokens)
        self._preemptions.inc(record.preemptions)
        for reason in record.finish:
            self._finished.labels(**self._label, finished_reason=reason).inc()
        self._whole.observe(clock() - record.begun)
        self._of_prompt.observe(record.prompt_tokens)
        self._of_answer.observe(record.tokens)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _State:
    """Read when it is asked for."""

    def __init__(self, state: Callable[[], dict[str, float]], model: str) -> None:
        self._state, self._model = state, model

    def collect(self) -> Iterator[Metric]:
        for name, value in self._state().items():
            family = GaugeMetricFamily(f"brigade:{name}", WORDS.get(name, name), labels=["model_name"])
            family.add_metric([self._model], value)
            yield family


WORDS = {
    "num_requests_running": "Samples that are in the batch.",
    "num_requests_waiting": "Samples that wait for a place.",
    "kv_cache_usage_perc": "Share of the KV blocks that are held, from 0 to 1.",
    "num_replicas": "Replicas that work.",
}  # fmt: skip
