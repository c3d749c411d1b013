"""A request as its client has it: what was asked, and all that was said of it so far.

It is kept until its end: whatever a failure takes away on the other side is computed again from here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from brigade.coordinator.messages import Ask, Heard, Piece, Rest, Row, decode_rest
from brigade.engine.outputs import Delta, FinishReason, RequestMetrics, RequestOutput, Sample
from brigade.engine.sampling.logprobs import TokenLogprobs
from brigade.engine.sampling.rng import derive_seed
from brigade.errors import FailureKind

clock = time.perf_counter
NO_REST = Rest()


def logprobs_of(row: Row) -> TokenLogprobs:
    token, logprob, rank, top = row
    return TokenLogprobs(token, logprob, rank, tuple((other, value) for other, value in top))


@dataclass(slots=True)
class HeardSample:
    token_ids: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    characters: int = 0
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    error: str | None = None
    error_kind: FailureKind | None = None
    first_token: float | None = None
    finished: float | None = None
    counts: tuple[int, int, int] = (0, 0, 0)  # preemptions, cached tokens, steps

    def heard(self) -> Heard:
        return Heard(list(self.token_ids), self.characters, self.finish_reason is not None)


@dataclass(slots=True, eq=False)
class Asked:
    """`prompt`: its text as given, if it was a text. `seed`: the one that was given, or the one that the coordinator drew."""

    number: int
    ask: Ask
    prompt: str | None
    reader: Callable[[Any], None]
    deltas: bool
    wants_logprobs: bool
    identity: str = ""  # a digest: nothing else is to compute it; empty: whatever the coordinator has
    arrival: float = field(default_factory=clock)
    seed: int | None = None
    is_accepted: bool = False
    began_as: str = ""
    samples: list[HeardSample] = field(default_factory=list)
    prompt_token_ids: list[int] = field(default_factory=list)
    has_told_ids: bool = False  # to the reader
    prompt_logprobs: list[TokenLogprobs | None] | None = None

    def __post_init__(self) -> None:
        self.seed = self.ask.seed
        self.samples = [HeardSample() for _ in range(self.ask.n)]
        if isinstance(self.ask.prompt, list):
            self.prompt_token_ids = self.ask.prompt

    @property
    def name(self) -> str:
        return f"c-{self.number}"

    def accept(self, seed: int) -> None:
        self.seed, self.is_accepted = seed, True

    def heard(self) -> list[Heard]:
        return [sample.heard() for sample in self.samples]

    @property
    def is_over(self) -> bool:
        return all(sample.finish_reason is not None for sample in self.samples)

    def take(self, piece: Piece) -> Delta:
        """Raises `ValueError` where this is not what comes next."""
        if not 0 <= piece.index < len(self.samples):
            raise ValueError(f"sample {piece.index} of {len(self.samples)}")
        sample = self.samples[piece.index]
        if sample.finish_reason is not None or piece.start != len(sample.token_ids):
            raise ValueError(f"a piece at {piece.start} where {len(sample.token_ids)} tokens were heard")
        rest = decode_rest(piece.rest) or NO_REST
        of_prompt, ids = None, None
        if rest.prompt_token_ids is not None:
            self.prompt_token_ids = rest.prompt_token_ids
        if piece.index == 0 and not self.has_told_ids and self.prompt_token_ids:
            ids, self.has_told_ids = tuple(self.prompt_token_ids), True
        if rest.prompt_logprobs is not None and self.prompt_logprobs is None:  # a replica that goes on tells them again
            of_prompt = [None if row is None else logprobs_of(row) for row in rest.prompt_logprobs]
            self.prompt_logprobs = of_prompt
        logprobs = None if rest.logprobs is None else [logprobs_of(row) for row in rest.logprobs]
        now = clock()
        sample.token_ids += piece.token_ids
        sample.logprobs += logprobs or []
        if piece.text:
            sample.pieces.append(piece.text)
            sample.characters += len(piece.text)
        if sample.first_token is None and piece.token_ids:
            sample.first_token = now
        if piece.finish is not None:
            sample.finish_reason, sample.error, sample.stop_reason = piece.finish, piece.error, rest.stop_reason
            sample.error_kind = piece.kind
            sample.finished, sample.counts = now, (rest.preemptions, rest.cached_tokens, rest.steps)
        metrics = None if piece.finish is None else self._metrics(sample)
        return Delta(
            self.name, piece.index, piece.text, piece.token_ids, logprobs, piece.finish, piece.error, rest.stop_reason, of_prompt,
            metrics, ids, piece.kind,
        )  # fmt: skip

    def _metrics(self, sample: HeardSample) -> RequestMetrics:
        """By this client's clock, with all that lies between; preemptions, cached tokens and steps of the replica that ended it."""
        return RequestMetrics(self.arrival, sample.first_token, sample.finished, *sample.counts)

    def output(self) -> RequestOutput:
        samples = []
        for index, one in enumerate(self.samples):
            assert one.finish_reason is not None
            samples.append(
                Sample(
                    index,
                    "".join(one.pieces),
                    one.token_ids,
                    one.logprobs if self.wants_logprobs else None,
                    one.finish_reason,
                    one.stop_reason,
                    derive_seed(self.seed or 0, index),
                    self._metrics(one),
                    one.error,
                    one.error_kind,
                )  # fmt: skip
            )
        return RequestOutput(self.name, self.prompt, list(self.prompt_token_ids), self.prompt_logprobs, samples)
