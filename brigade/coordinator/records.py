"""What must be on disk before the messages of the same round are sent."""

from __future__ import annotations

from dataclasses import dataclass

from brigade.coordinator.messages import Ask, Identity


@dataclass(frozen=True, slots=True)
class Pinned:
    """From now on a model name stands for this."""

    model: str
    identity: Identity


@dataclass(frozen=True, slots=True)
class Unpinned:
    """It stands for nothing any more: nobody serves it, and no request of it is kept."""

    model: str


@dataclass(frozen=True, slots=True)
class Acceptance:
    client: bytes
    number: int
    ask: Ask  # with its seed
    due: float | None  # when it must have ended, on a clock that goes on through a restart


@dataclass(frozen=True, slots=True)
class Ending:
    """Nobody will ask for this request any more."""

    client: bytes
    number: int


Record = Pinned | Unpinned | Acceptance | Ending
