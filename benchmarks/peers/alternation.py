"""Everybody in turn: one repetition of one cell by each engine, then the next, so that what the machine does meanwhile
falls on all of them alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from benchmarks.peers.worker import WorkerError, WorkerLost
from benchmarks.peers.works import Cell, make_prompts


class Asked(Protocol):
    def ask(self, request: Mapping[str, Any], limit: float) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Sample:
    seconds: float
    first: float | None
    ids: tuple[tuple[int, ...], ...]
    others: float | None = None  # the share of the machine that went to other processes meanwhile


@dataclass
class Measured:
    """What one engine did, and what it could not."""

    samples: dict[Cell, list[Sample]] = field(default_factory=lambda: defaultdict(list))
    failures: dict[Cell, str] = field(default_factory=dict)
    lost: str = ""  # why it was gone before the end


@dataclass(frozen=True)
class Plan:
    cells: Sequence[Cell]
    repeats: int
    warmup: int
    vocab_size: int
    limit: float  # seconds for one answer


def alternate(
    workers: Mapping[str, Asked],
    plan: Plan,
    wanted: Callable[[str, Cell], bool] = lambda label, cell: True,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[dict[str, Measured]]:
    """What is known after each round, the same object every time. A round counts once all had their turn in it, so that an
    interruption takes away nothing but the round it came into. A worker that fails in a cell is spared the rest of that cell; one
    that is lost, the rest of the run."""
    found = {label: Measured() for label in workers}
    rounds = [(cell, number) for cell in plan.cells for number in range(plan.warmup + plan.repeats)]
    for done, (cell, number) in enumerate(rounds):
        request = {"do": "generate", "prompts": make_prompts(cell, number, plan.vocab_size), "new_tokens": cell.new}
        samples: dict[str, Sample] = {}
        for label, worker in workers.items():
            measured = found[label]
            if measured.lost or cell in measured.failures or not wanted(label, cell):
                continue
            try:
                samples[label] = _sample(worker.ask(request, plan.limit))
            except WorkerLost as error:
                measured.lost = f"{cell.name}: {error}"
            except WorkerError as error:
                measured.failures[cell] = str(error)
        if number >= plan.warmup:
            for label, sample in samples.items():
                found[label].samples[cell].append(sample)
        if progress is not None:
            progress(done + 1, len(rounds))
        yield found


def _sample(reply: Mapping[str, Any]) -> Sample:
    return Sample(reply["seconds"], reply["first"], tuple(map(tuple, reply["ids"])), reply["others"])
