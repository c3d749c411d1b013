"""An accepted request, from its acceptance until its client has acknowledged its end.

Its state is changed by `move` alone, along the table below; `docs/coordinator.md` is held to the same table by a test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from brigade.coordinator.messages import Ask, Heard, Piece
from brigade.errors import FailureKind

LOSSES = 3  # of replicas, without a new token in between: after so many it runs alone, and so many more while it is alone end it


class JobState(Enum):
    PARKED = "parked"  # its client is away, and may come back
    WAITING = "waiting"  # for a replica
    PLACED = "placed"  # a replica works on it
    ENDED = "ended"  # its client has not yet said that it knows the end
    FORGOTTEN = "forgotten"


STEPS: dict[tuple[JobState, str], JobState] = {
    (JobState.WAITING, "given back by the journal"): JobState.PARKED,
    (JobState.WAITING, "placed on a replica"): JobState.PLACED,
    (JobState.PLACED, "replica lost"): JobState.WAITING,
    (JobState.PLACED, "last sample ended"): JobState.ENDED,
    (JobState.WAITING, "client away"): JobState.PARKED,
    (JobState.PLACED, "client away"): JobState.PARKED,
    (JobState.PARKED, "client back"): JobState.WAITING,
    (JobState.ENDED, "client back without the end"): JobState.WAITING,
    (JobState.WAITING, "cannot go on"): JobState.ENDED,
    (JobState.PLACED, "cannot go on"): JobState.ENDED,
    (JobState.ENDED, "acknowledged"): JobState.FORGOTTEN,
    (JobState.PARKED, "given up"): JobState.FORGOTTEN,
    (JobState.WAITING, "given up"): JobState.FORGOTTEN,
    (JobState.PLACED, "given up"): JobState.FORGOTTEN,
    (JobState.ENDED, "given up"): JobState.FORGOTTEN,
}


@dataclass(slots=True)
class SampleSoFar:
    """What was sent to the client of one sample."""

    token_ids: list[int] = field(default_factory=list)
    characters: int = 0
    is_ended: bool = False

    def heard(self) -> Heard:
        return Heard(list(self.token_ids), self.characters, self.is_ended)


@dataclass(slots=True, eq=False)
class Job:
    """`client` and `number` name it. `due`: when it must have ended, on the coordinator's clock."""

    client: bytes
    number: int
    ask: Ask  # with its seed
    due: float | None
    state: JobState = JobState.WAITING
    samples: list[SampleSoFar] = field(default_factory=list)
    placement: int | None = None
    replica: str | None = None
    lost: int = 0  # replicas since the last new token
    lost_alone: int = 0
    runs_alone: bool = False
    began_as: str = ""  # the digest of the identity that it was first placed on
    ticket: int = 0  # of its present place in the queue
    waits_since: float = 0.0
    keys: list[bytes] | None = None  # of its prompt's beginnings, worked out once
    ages: list[int] = field(default_factory=list)  # what `Prefixes.send` said when it was placed

    def __post_init__(self) -> None:
        if not self.samples:
            self.samples = [SampleSoFar() for _ in range(self.ask.n)]

    @property
    def is_open(self) -> bool:
        """Whether more is to come."""
        return self.state in (JobState.PARKED, JobState.WAITING, JobState.PLACED)

    @property
    def is_suspect(self) -> bool:
        """Whether it may be what its replicas died of."""
        return self.lost >= LOSSES

    def move(self, event: str) -> None:
        assert (self.state, event) in STEPS, f"a {self.state.value} request cannot be: {event}"
        self.state = STEPS[self.state, event]
        if self.state is not JobState.PLACED:
            self.placement = self.replica = None
            self.runs_alone = False

    def stand_at(self, heard: Sequence[Heard]) -> None:
        """Our record of what was sent becomes what the client says that it has."""
        self.samples = [SampleSoFar(list(one.token_ids), one.characters, one.is_ended) for one in heard]

    @property
    def has_tokens(self) -> bool:
        return any(sample.token_ids for sample in self.samples)

    def has_said(self, heard: Sequence[Heard]) -> bool:
        """Whether the client has all that was sent to it."""
        return [each.heard() for each in self.samples] == list(heard)

    def take(self, piece: Piece) -> Piece | None:
        """Notes a replica's piece, and gives it back under the client's number. None for a sample that ended before this placement:
        its end is said again, and the client has it. Raises `ValueError` on a piece that is none of this request's."""
        if not 0 <= piece.index < len(self.samples):
            raise ValueError(f"sample {piece.index} of {len(self.samples)}")
        sample = self.samples[piece.index]
        if piece.start != len(sample.token_ids):
            raise ValueError(f"a piece at {piece.start} where {len(sample.token_ids)} tokens were sent")
        if sample.is_ended:
            if piece.token_ids or piece.text:
                raise ValueError("a token of a sample that has ended")
            return None
        sample.token_ids += piece.token_ids
        sample.characters += len(piece.text)
        sample.is_ended = piece.finish is not None
        if piece.token_ids:
            self.lost = self.lost_alone = 0
        return Piece(
            self.number, piece.index, piece.start, piece.token_ids, piece.text, piece.finish, piece.error, piece.rest, piece.kind
        )  # fmt: skip

    @property
    def all_ended(self) -> bool:
        return all(sample.is_ended for sample in self.samples)

    def lose(self) -> str | None:
        """Its replica is gone; the reason to end it, if it is to blame. To be called before `move`, which ends `runs_alone`."""
        self.lost += 1
        if self.runs_alone:
            self.lost_alone += 1
        if self.lost_alone >= LOSSES:
            return (
                f"{self.lost_alone} replicas ended one after the other while they worked on this request alone; "
                "look for the reason in a replica's log"
            )
        return None

    def fail(self, error: str, kind: FailureKind | None = None) -> list[Piece]:
        """An end for every sample that has none."""
        pieces = []
        for index, sample in enumerate(self.samples):
            if not sample.is_ended:
                sample.is_ended = True
                pieces.append(Piece(self.number, index, len(sample.token_ids), [], "", "error", error, kind=kind))
        return pieces
