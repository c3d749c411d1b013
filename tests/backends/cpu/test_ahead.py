"""What waiting threads fetch: the weights that come next, in the order that a step reads them."""

from __future__ import annotations

import pytest
import torch

from brigade import LLM
from brigade.backends.cpu.library import find_kernels

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

from brigade.backends.cpu import ahead
from brigade.backends.cpu.matrix import PackedMatrix, pack


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
    assert list(chain[0].ahead.bytes[:3]) == [size, size, size // 2]


def test_a_matrix_alone_is_followed_by_nothing() -> None:
    alone = matrices(1)
    assert alone[0].ahead.count == 0
    ahead.chain(alone)
    assert alone[0].ahead.count == 0


def test_a_model_is_read_from_its_first_layer_to_its_head() -> None:
    llm = LLM(kv_blocks=4, max_batch_size=1)
    packed = llm.engine.controller.model.packed.matrices
    order = [
        f"layers.{i}.{part}"
        for i in range(llm.config.num_layers)
        for part in ("attention.qkv", "attention.out", "mlp.up", "mlp.down")
    ]
    found = [packed[name] for name in (*order, "head")]
    for matrix, then in zip(found, found[1:] + found[:1], strict=True):
        assert followers(matrix)[:1] == addresses([then])
