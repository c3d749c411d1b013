"""More ranks than cores: exchanges go on at a bounded pace, whether ranks spin or not."""

from __future__ import annotations

import json
import time

import pytest

from brigade.backends.cpu.library import find_kernels
from brigade.mesh import Mesh
from brigade.parallel.cores import Cores
from brigade.parallel.launch import start_ranks
from tests.parallel.adder import add_up

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

CALLS, WIDTH = 2000, 1024


@pytest.mark.alone
@pytest.mark.parametrize("spinning", [False, True], ids=["as chosen", "spinning"])
def test_eight_ranks_on_fewer_cores_do_not_collapse(spinning) -> None:
    cores = [Cores(1, None, own=True)] * 8 if spinning else None
    ranks = start_ranks(Mesh(tp=8), "tests.parallel.adder", json.dumps([CALLS, WIDTH]).encode(), cores=cores)
    add_up(ranks.links, 10, WIDTH)  # until all have begun
    start = time.monotonic()
    total = add_up(ranks.links, CALLS, WIDTH)
    seconds = time.monotonic() - start
    assert total == sum(range(1, 9)) and all(json.loads(reply) == total for reply in ranks.links.replies())
    print(f"8 ranks, spins {ranks.setup.spins}: {CALLS / seconds:.0f} exchanges a second")
    assert seconds < 10  # 5 ms each
    ranks.close()
