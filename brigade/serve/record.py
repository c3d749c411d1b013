"""What is noted of one request while it runs: for its line in the log, and for the metrics."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from brigade.engine.outputs import Delta, RequestOutput, Sample
from brigade.serve.errors import ApiError

clock = time.monotonic
MOST_TOLD = 300  # characters of a message in the log


class Gauge(Protocol):
    """Who is told what happens (`metrics.Metrics`)."""

    def first_token(self, seconds: float) -> None: ...

    def next_tokens(self, seconds: float, count: int) -> None: ...

    def ended(self, record: Record) -> None: ...


@dataclass(slots=True)
class Record:
    id: str
    gauge: Gauge
    method: str = ""
    path: str = ""
    client: str = ""
    key: str | None = None  # the name of the API key
    begun: float = field(default_factory=clock)
    status: int | None = None
    model: str | None = None
    streams: bool = False
    first: float | None = None
    last: dict[tuple[str, int], float] = field(default_factory=dict)  # when each sample was heard last
    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0
    preemptions: int = 0
    finish: list[str] = field(default_factory=list)
    error: str | None = None
    cause: BaseException | None = None
    is_job: bool = False
    is_read: bool = False  # to its end
    leaves_unread: bool = False  # some of the request, behind an answer that did not wait for it
    is_gone: bool = False  # the client went away before the answer's end

    def submitted(self) -> None:
        self.is_job = True

    def heard(self, delta: Delta) -> None:
        if not delta.token_ids:
            return
        now, count = clock(), len(delta.token_ids)
        self.tokens += count
        sample = delta.request_id, delta.index
        if self.first is None:
            self.first = now
            self.gauge.first_token(now - self.begun)
        if sample in self.last:
            self.gauge.next_tokens(now - self.last[sample], count)
        self.last[sample] = now

    def ended(self, outputs: Sequence[RequestOutput]) -> None:
        self.prompt_tokens = sum(len(output.prompt_token_ids) for output in outputs)
        for output in outputs:
            self.cached_tokens += min(output.metrics.cached_tokens, len(output.prompt_token_ids))
            for sample in output.samples:
                self.finish.append(sample.finish_reason)
                self.preemptions += sample.metrics.preemptions
                if not self.streams:
                    self._tell_times(sample)

    def _tell_times(self, sample: Sample) -> None:
        """Of an answer that comes at once only the engine knows when its tokens came."""
        count, times = len(sample.token_ids), sample.metrics
        self.tokens += count
        if times.ttft is None or times.latency is None:
            return
        if self.first is None:
            self.first = self.begun + times.ttft
            self.gauge.first_token(times.ttft)
        if count > 1:
            self.gauge.next_tokens(times.latency - times.ttft, count - 1)

    def failed(self, error: ApiError, cause: BaseException | None) -> None:
        """What a client did wrong has its code before what it was told, and its field too where that does not name it; of the
        request no more than that quotes."""
        said = error.code or "refused"
        if error.param is not None and error.param not in error.message:
            said += f" ({error.param})"
        told = _in_log(error.message)
        self.error = told if error.status >= 500 else f"{_in_log(said)}: {told}"
        self.cause = cause if error.status == 500 else None

    def _finish(self) -> str | None:
        """Of one answer its reason, of several how many have which."""
        if len(self.finish) < 2:
            return next(iter(self.finish), None)
        return ",".join(f"{reason}:{count}" for reason, count in Counter(self.finish).items())

    def line(self) -> dict[str, Any]:
        """What the log says; what there is not is left out."""
        found: dict[str, Any] = {
            "request": self.id, "client": self.client, "key": self.key, "method": self.method, "path": self.path,
            "status": self.status, "seconds": round(clock() - self.begun, 4),
        }  # fmt: skip
        if self.is_job:
            found |= {
                "model": self.model, "stream": self.streams, "prompt_tokens": self.prompt_tokens,
                "cached_tokens": self.cached_tokens, "tokens": self.tokens, "finish": self._finish(),
                "first_token": None if self.first is None else round(self.first - self.begun, 4),
            }  # fmt: skip
        found |= {"error": self.error, "gone": self.is_gone or None}
        return {name: value for name, value in found.items() if value is not None}


def _in_log(text: str) -> str:
    """One line without control characters, so that no request can write a line of its own."""
    text = " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * MOST_TOLD]).split())
    return text if len(text) <= MOST_TOLD else f"{text[: MOST_TOLD - 3]}..."
