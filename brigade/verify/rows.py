"""The rows of the matrix: one reference, and settings that must not show in what a model says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from brigade.verify.layout import ONE_RANK, Layout
from brigade.verify.run import Run

REFERENCE = "1 rank, each request alone"
BLOCK = 32  # positions of a cache block, small, so that short prompts fill some


@dataclass(frozen=True)
class Load:
    """How many ids each prompt has, and how many it may be answered with."""

    prompts: Sequence[int]
    outputs: Sequence[int]

    @property
    def whole(self) -> int:
        return sum(self.prompts)

    @property
    def blocks(self) -> int:
        """Enough for all requests at once, and for what the prefix cache keeps of them."""
        return sum(_blocks(prompt + output) for prompt, output in zip(self.prompts, self.outputs, strict=True)) + 1

    @property
    def too_few_blocks(self) -> int:
        """All prompts come in, and somebody must leave before the last answer ends."""
        begin = sum(_blocks(prompt) for prompt in self.prompts)
        most = max(_blocks(prompt + output) for prompt, output in zip(self.prompts, self.outputs, strict=True))
        return max(begin, most)


def matrix_rows(layouts: Sequence[Layout], load: Load, threads: Sequence[int]) -> list[Run]:
    """The reference first; runs of one layout follow each other. `threads`: counts to try on one rank."""
    roomy = {"block_size": BLOCK, "kv_blocks": load.blocks, "max_batch_size": len(load.prompts)}
    rows = [
        _row(REFERENCE, ONE_RANK, roomy | {"max_batch_size": 1, "prefix_cache": False, **_at_once(load)}),
        *_one_rank(load, roomy, threads),
    ]
    for layout in layouts:
        if layout != ONE_RANK:
            rows += _many_ranks(layout, load, roomy)
    return rows


def _one_rank(load: Load, roomy: dict[str, Any], threads: Sequence[int]) -> Iterator[Run]:
    uncached = {**roomy, "prefix_cache": False}
    yield _row("together", ONE_RANK, roomy)
    yield _row("together, last one first", ONE_RANK, roomy, arrivals="reversed")
    yield _row("one more at every step", ONE_RANK, roomy, arrivals=1)
    yield _row("one by one", ONE_RANK, {**roomy, "max_batch_size": 1})
    yield _row("static engine", ONE_RANK, roomy, engine="static")
    yield _row("static engine, groups of 2, last one first", ONE_RANK, {**roomy, "max_batch_size": 2}, "reversed", engine="static")
    for chunk in (1, 7, 64):
        yield _row(f"chunks of {chunk}", ONE_RANK, {**uncached, "prefill_chunk": chunk})
    yield _row("whole prompts in one step", ONE_RANK, {**uncached, **_at_once(load)})
    yield _row("no prefix cache", ONE_RANK, uncached)
    yield _row("known prefixes", ONE_RANK, roomy, passes=2, at_least={"cached_tokens": 1})
    yield _preempted(ONE_RANK, load, roomy)
    for count in threads:
        yield _row(f"{count} thread{'s' * (count > 1)}", ONE_RANK, roomy, threads=count)


def _many_ranks(layout: Layout, load: Load, roomy: dict[str, Any]) -> Iterator[Run]:
    yield _row("together", layout, roomy)
    if layout.tp > 1:
        yield _row("plain greedy requests", layout, roomy, plain=True)
    yield _row("one more at every step, chunks of 7", layout, {**roomy, "prefill_chunk": 7}, arrivals=1)
    yield _preempted(layout, load, roomy)


def _preempted(layout: Layout, load: Load, roomy: dict[str, Any]) -> Run:
    settings = {**roomy, "kv_blocks": load.too_few_blocks, "prefix_cache": False, **_at_once(load)}
    return _row("too few blocks", layout, settings, at_least={"preemptions": 1})


def _at_once(load: Load) -> dict[str, Any]:
    return {"prefill_chunk": load.whole, "max_step_tokens": load.whole + len(load.prompts)}


def _row(words: str, layout: Layout, settings: dict[str, Any], arrivals: Any = "together", **more: Any) -> Run:
    name = words if words == REFERENCE else f"{layout}, {words}"
    return Run(name, layout, settings=settings, arrivals=arrivals, **more)


def _blocks(positions: int) -> int:
    return -(-positions // BLOCK)
