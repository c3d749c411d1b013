"""What waiting threads fetch: the weights that come next, in the order that a step reads them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from brigade import LLM
from brigade.backends.cpu.library import find_kernels

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

from brigade.backends.cpu import ahead
from brigade.backends.cpu.cut import lying_part
from brigade.backends.cpu.matrix import PackedMatrix, pack
from brigade.backends.cpu.packer import PackedModel, Packer
from brigade.backends.cpu.quant import Quant
from brigade.mesh import Cut


def matrices(count: int) -> list[PackedMatrix]:
    generator = torch.Generator().manual_seed(0)
    return [pack(torch.randn(64, 64, generator=generator), None, "bfloat16", tree=False) for _ in range(count)]


def followers(matrix: PackedMatrix) -> list[int]:
    return list(matrix.ahead.data[: matrix.ahead.count])


def addresses(found: list[PackedMatrix]) -> list[int]:
    return [matrix.arrays[0].ctypes.data for matrix in found]


def test_after_the_last_comes_the_first() -> None:
    chain = matrices(3)
    ahead.chain(chain)
    assert [followers(matrix) for matrix in chain] == [addresses([chain[i], chain[j]]) for i, j in ((1, 2), (2, 0), (0, 1))]


def test_no_more_than_caches_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = matrices(20)
    size = chain[0].arrays[0].nbytes
    ahead.chain(chain)
    assert followers(chain[0]) == addresses(chain[1:9])
    monkeypatch.setattr(ahead, "BYTES", 5 * size // 2)
    ahead.chain(chain)
    assert followers(chain[0]) == addresses(chain[1:4])
    assert list(chain[0].ahead.bytes[:3]) == [size, size, size // 2] and list(chain[0].ahead.runs[:3]) == [1, 1, 1]


def test_of_a_part_that_lies_in_a_whole_its_runs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads of queries, keys and values; then half of K out of each panel, as many panels as caches keep."""
    (first,), whole = matrices(1), pack(torch.randn(256, 64), None, "bfloat16", tree=True)
    heads, half = lying_part(whole, Cut(-2, ((0, 64), (128, 160), (192, 256)))), lying_part(whole, Cut(-1, ((32, 64),)))
    panel, at = whole.arrays[0].nbytes // 8, whole.arrays[0].ctypes.data
    monkeypatch.setattr(ahead, "BYTES", 6 * panel)
    ahead.chain([first, heads, half])
    count = first.ahead.count
    assert followers(first) == [at, at + 4 * panel, at + 6 * panel, at + panel // 2] and count == 4
    assert list(first.ahead.bytes[:count]) == [panel, panel, panel, panel // 2] and list(first.ahead.runs[:count]) == [2, 1, 2, 2]
    assert list(first.ahead.stride[:count]) == [panel] * 4


def test_two_models_of_the_same_packed_matrices_have_chains_of_their_own() -> None:
    """As those of several ranks in one process, which may be made at the same time."""
    ready = PackedModel({}, dict(zip("abc", matrices(3), strict=True)))
    chains = []
    for names in ("abc", "cab"):
        packer = Packer(Quant(), ready=ready)
        chains.append([packer(name, torch.empty(64, 64, device="meta"), None, tree=False) for name in names])
    for chain in chains:
        ahead.chain(chain[:2])
    a, b, c = addresses(list(ready.matrices.values()))
    assert [followers(matrix) for matrix in chains[0][:2]] == [[b], [a]]
    assert [followers(matrix) for matrix in chains[1][:2]] == [[a], [c]]
    assert all(matrix.ahead.count == 0 for matrix in ready.matrices.values())


def test_a_matrix_alone_is_followed_by_nothing() -> None:
    alone = matrices(1)
    assert alone[0].ahead.count == 0
    ahead.chain(alone)
    assert alone[0].ahead.count == 0


def test_a_model_is_read_from_its_first_layer_to_its_head() -> None:
    llm = LLM(kv_blocks=4, max_batch_size=1)
    packed = llm.engine.controller.runner.model.packed.matrices
    order = [
        f"layers.{i}.{part}"
        for i in range(llm.config.num_layers)
        for part in ("attention.qkv", "attention.out", "mlp.up", "mlp.down")
    ]
    found = [packed[name] for name in (*order, "head")]
    for matrix, then in zip(found, found[1:] + found[:1], strict=True):
        assert followers(matrix)[:1] == addresses([then])


LOCKS = """
import ctypes, torch
from brigade.backends.cpu.ahead import chain
from brigade.backends.cpu.library import find_kernels, kernels
from brigade.backends.cpu.matrix import pack
kernels().br_threads(2, -1)
counter = ctypes.CDLL(None).locks_of_this_thread
linear = ctypes.PyDLL(str(find_kernels())).br_linear  # without giving up the interpreter's lock, which would count as well
linear.argtypes = kernels().br_linear.argtypes
x, out, counts = torch.zeros(1, 64), torch.zeros(1, 2048), []
with_next = pack(torch.zeros(2048, 64), None, "float32", tree=False)
chain([with_next, with_next])
for address in (with_next.struct.ahead, None):
    with_next.struct.ahead = address
    before = counter()
    linear(ctypes.byref(with_next.struct), x.data_ptr(), 1, out.data_ptr())
    counts.append(counter() - before)
print(*counts)
"""


def test_saying_what_comes_next_takes_no_lock_of_its_own(tmp_path: Path) -> None:
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None or sys.platform != "linux":
        pytest.skip("no C compiler on this machine")
    counter = tmp_path / "counter.so"
    source = Path(__file__).with_name("lock_counter.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", str(source), "-o", str(counter), "-ldl"], check=True)
    environment = os.environ | {"LD_PRELOAD": f"{counter} {os.environ.get('LD_PRELOAD', '')}".strip()}
    done = subprocess.run([sys.executable, "-c", LOCKS], env=environment, capture_output=True, text=True, check=True)
    with_next, without = map(int, done.stdout.split())
    assert with_next == without > 0
