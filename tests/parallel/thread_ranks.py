"""Ranks of several stages, without processes: each is a thread of the test. Those of one stage meet by
`tests/backends/cpu/ranks.py`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any


def run_ranks(works: Sequence[Callable[[], Any]]) -> list[Any]:
    """What each rank returns, or the first error of any."""
    results: list[Any] = [None] * len(works)
    errors: list[BaseException] = []

    def run(number: int, work: Callable[[], Any]) -> None:
        try:
            results[number] = work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise next((error for error in errors if not isinstance(error, threading.BrokenBarrierError)), errors[0])
    return results
