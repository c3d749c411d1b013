"""What every API of the server is translated to and from: one job, and a stream of events.

An API is a file that makes a `Job` of a request's body and the objects of its answer of what the job's requests say. It has no
socket and no engine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from brigade.engine.outputs import Delta, RequestOutput
from brigade.engine.prompt import Prompt
from brigade.serve.served import Served

Object = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """Prompts that are run with the same parameters: those that were given, and the model's own defaults for the others."""

    id: str
    created: int  # seconds since 1970
    prompts: Sequence[Prompt]
    params: Mapping[str, Any] = field(default_factory=dict)
    streams: bool = False
    names: Mapping[str, str] = field(default_factory=dict)  # the engine's of fields that the request calls otherwise, and those

    @property
    def samples(self) -> int:
        return len(self.prompts) * self.params.get("n", 1)


class Answer(ABC):
    """A job as one API answers it. `chunk` and what follows it are for a job that streams, `whole` for one that does not."""

    def __init__(self, job: Job, served: Served, name: str) -> None:
        """`name`: of the model, as the request calls it."""
        self.job, self.served, self.name = job, served, name

    def envelope(self, kind: str, choices: list[Object]) -> Object:
        """What every object of an answer has."""
        return {
            "id": self.job.id, "object": kind, "created": self.job.created, "model": self.name,
            "system_fingerprint": self.served.fingerprint, "choices": choices,
        }  # fmt: skip

    def begin(self) -> list[Object]:
        """Objects that come before the first delta."""
        return []

    @abstractmethod
    def chunk(self, place: int, delta: Delta) -> list[Object]:
        """What a delta of the prompt at `place` becomes."""

    def end(self, outputs: Sequence[RequestOutput]) -> list[Object]:
        """Objects that come behind the last delta."""
        return []

    @abstractmethod
    def whole(self, outputs: Sequence[RequestOutput]) -> Object:
        """The answer at once."""


def usage(outputs: Sequence[RequestOutput]) -> Object:
    """Tokens of prompts and answers, and how many of the prompts' came from the prefix cache."""
    prompt = sum(len(output.prompt_token_ids) for output in outputs)
    answers = sum(len(sample.token_ids) for output in outputs for sample in output.samples)
    cached = sum(min(output.metrics.cached_tokens, len(output.prompt_token_ids)) for output in outputs)
    return {
        "prompt_tokens": prompt, "completion_tokens": answers, "total_tokens": prompt + answers,
        "prompt_tokens_details": {"cached_tokens": cached},
    }  # fmt: skip
