"""What every engine is asked to do: cells of the table, and the prompts of each repetition."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

WORKS = {
    "latency": "whole batches, 128 ids in, 8 out, milliseconds",
    "throughput": "32 requests at once, 128 ids in, 64 out, output tokens a second",
    "stream": "one request, 128 ids in, 128 out, seconds",
}
BATCH_SIZES = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Cell:
    work: str
    batch: int
    prompt: int
    new: int

    @property
    def name(self) -> str:
        return (
            f"batch {self.batch}" if self.work == "latency" else {"throughput": "32 x 64, tok/s", "stream": "stream, s"}[self.work]
        )

    def figure(self, seconds: float) -> str:
        """In the unit people expect of it."""
        if self.work == "latency":
            return milliseconds(seconds)
        return f"{self.batch * self.new / seconds:.0f}" if self.work == "throughput" else f"{seconds:.2f}"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.0f}" if seconds >= 0.1 else f"{seconds * 1e3:.1f}"


def cells(works: Sequence[str], batch_sizes: Sequence[int]) -> list[Cell]:
    made = {
        "latency": [Cell("latency", batch, 128, 8) for batch in batch_sizes],
        "throughput": [Cell("throughput", 32, 128, 64)],
        "stream": [Cell("stream", 1, 128, 128)],
    }
    return [cell for work in WORKS if work in works for cell in made[work]]


def make_prompts(cell: Cell, number: int, vocab_size: int, seed: int = 0) -> list[list[int]]:
    """New ids for each repetition, the same for every engine, so that no cache of prefixes knows them."""
    generator = random.Random(f"{seed}/{cell.work}/{cell.batch}/{number}")
    return [[generator.randrange(vocab_size) for _ in range(cell.prompt)] for _ in range(cell.batch)]
