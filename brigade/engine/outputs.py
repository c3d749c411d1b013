"""What comes back: deltas while a request runs, and the whole of it when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from brigade.errors import FailureKind

if TYPE_CHECKING:
    from brigade.engine.sampling.logprobs import TokenLogprobs

# "error": this request alone could not go on; its `error` says why.
FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True, slots=True)
class RequestMetrics:
    """Seconds on one monotonic clock, and what the scheduler did."""

    arrival: float
    first_token: float | None
    finished: float | None
    preemptions: int
    cached_tokens: int
    steps: int

    @property
    def ttft(self) -> float | None:
        return None if self.first_token is None else self.first_token - self.arrival

    @property
    def latency(self) -> float | None:
        return None if self.finished is None else self.finished - self.arrival


@dataclass(frozen=True, slots=True)
class Delta:
    """What one step added to one sample of a request. Text never ends inside a UTF-8 character."""

    request_id: str
    index: int  # which of the n samples
    text: str
    token_ids: Sequence[int]
    logprobs: Sequence[TokenLogprobs] | None
    finish_reason: FinishReason | None
    error: str | None = None  # where the finish reason is "error"
    stop_reason: str | int | None = None  # the stop string or stop id that ended it
    prompt_logprobs: Sequence[TokenLogprobs | None] | None = None  # once, of the first sample, where they were asked for
    metrics: RequestMetrics | None = None  # with the end
    prompt_token_ids: Sequence[int] | None = None  # once, with the first delta of the first sample
    error_kind: FailureKind | None = None  # where another try may go on


@dataclass(frozen=True, slots=True)
class Sample:
    """One of the n answers to a prompt."""

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None  # of the tokens that were sampled here: not of those that it said on another engine
    finish_reason: FinishReason
    stop_reason: str | int | None  # the stop string or stop id that ended it
    seed: int  # a run with this seed gives the same tokens
    metrics: RequestMetrics
    error: str | None = None  # where the finish reason is "error"
    error_kind: FailureKind | None = None  # where another try may go on


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """A finished request. The fields of the first sample are there by their own names."""

    request_id: str
    prompt: str | None  # as it was given; None where ids were
    prompt_token_ids: list[int]
    prompt_logprobs: list[TokenLogprobs | None] | None
    samples: list[Sample] = field(default_factory=list)

    @property
    def text(self) -> str:
        return self.samples[0].text

    @property
    def token_ids(self) -> list[int]:
        return self.samples[0].token_ids

    @property
    def logprobs(self) -> list[TokenLogprobs] | None:
        return self.samples[0].logprobs

    @property
    def finish_reason(self) -> FinishReason:
        return self.samples[0].finish_reason

    @property
    def error(self) -> str | None:
        return self.samples[0].error

    @property
    def metrics(self) -> RequestMetrics:
        return self.samples[0].metrics
