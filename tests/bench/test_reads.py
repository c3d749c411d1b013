"""Memory is read in several ways in turn, for a given time; the fastest read counts."""

from __future__ import annotations

import torch

from brigade.bench.reads import fastest_read, make_readers


class Clock:
    """Stands still but for what the readers take."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def taking(self, *seconds: float):
        left = list(seconds)

        def read() -> None:
            self.now += left.pop(0)

        return read


def test_readers_take_turns_until_the_time_is_over() -> None:
    clock = Clock()
    readers = {"slow": clock.taking(3.0, 2.0), "fast": clock.taking(2.0, 1.0)}
    assert fastest_read(readers, 8.0, clock=clock) == (1.0, "fast")


def test_the_first_read_is_done_whatever_it_takes_and_no_other_after_its_time() -> None:
    clock = Clock()
    assert fastest_read({"slow": clock.taking(9.0), "never": clock.taking()}, 1.0, clock=clock) == (9.0, "slow")


def test_every_reader_reads_the_buffer() -> None:
    buffer = torch.ones(1 << 16)
    readers = make_readers(buffer, 2)
    assert {"torch sum", "torch max", "numpy max"} <= set(readers)
    for reader in readers.values():
        reader()
