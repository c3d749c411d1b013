"""Which weights are read after which.

Between two steps Python decides what comes next, and between two products the calling thread; the memory would rest. Threads of the
pool that have nothing to do then fetch what the next products read: 1 to 3% of a decode step of gpt-345m, one row in 8 or 4 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from brigade.backends.cpu.library import BrAhead
from brigade.backends.cpu.matrix import PackedMatrix

BYTES = 16 << 20  # what the pool's caches keep until it is read


def chain(matrices: Sequence[PackedMatrix]) -> None:
    """`matrices` in the order that a step reads them; after the last comes the next step's first."""
    for place, matrix in enumerate(matrices):
        ahead, left = matrix.ahead, BYTES
        ahead.count = 0
        after = (run for then in (*matrices[place + 1 :], *matrices[:place]) for run in then.runs)
        for at, size, stride, count in islice(after, BrAhead.MOST):
            if left <= 0:
                break
            # The last one is cut short: in its bytes if it is one run, else in the number of its runs.
            size, count = (min(size, left), 1) if count == 1 else (size, min(count, -(-left // size)))
            ahead.data[ahead.count], ahead.bytes[ahead.count] = at, size
            ahead.stride[ahead.count], ahead.runs[ahead.count] = stride, count
            ahead.count += 1
            left -= size * count
