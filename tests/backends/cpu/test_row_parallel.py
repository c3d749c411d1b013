"""Products whose K is cut over ranks: of any shape, one or several at once, they are those of the whole matrices."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from brigade.backends.cpu.library import available_paths, choose_path, find_kernels

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

from brigade.backends.cpu.cut import cut_matrix
from brigade.backends.cpu.matrix import KINDS, pack
from brigade.backends.exchange import Exchange
from brigade.backends.registry import get_backend
from brigade.mesh import Cut
from tests.backends.cpu.ranks import Meeting, ThreadExchange, in_ranks


@given(
    scheme=st.sampled_from(tuple(KINDS)), n=st.integers(1, 90), block=st.integers(1, 70), share=st.sampled_from([2, 4, 8]),
    rows=st.lists(st.integers(0, 40), min_size=1, max_size=4), path=st.sampled_from(available_paths()),
)  # fmt: skip
@example("int8", 33, 8, 2, [0, 3], available_paths()[0])
@settings(max_examples=80, deadline=None)
def test_products_of_any_shape_are_those_of_the_whole(scheme, n, block, share, rows, path) -> None:
    """As the experts of a layer are: each has its rows, some have none."""
    generator, k = torch.Generator().manual_seed(1), 8 * block
    whole = [pack(torch.randn(n, k, generator=generator), None, scheme, tree=True) for _ in rows]
    xs = [torch.randn(count, k, generator=generator) for count in rows]
    choose_path(path)

    def rank(exchange: Exchange) -> list[torch.Tensor]:
        first, last = exchange.rank * k // share, (exchange.rank + 1) * k // share
        backend = get_backend("cpu")
        backend.exchange = exchange
        pairs = [(x[:, first:last], cut_matrix(matrix, Cut(-1, ((first, last),)))) for x, matrix in zip(xs, whole, strict=True)]
        return backend.tree_linears(pairs, share)

    try:
        expected = [matrix(x) for matrix, x in zip(whole, xs, strict=True)]
        for found in in_ranks(share, rank):
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    finally:
        choose_path("")


@pytest.mark.parametrize("bias", [None, torch.linspace(-1, 1, 24)])
def test_a_weight_that_nobody_packed_is_multiplied_all_the_same(bias: torch.Tensor | None) -> None:
    torch.manual_seed(2)
    weight, x = torch.randn(24, 80), torch.randn(5, 80)

    def rank(exchange: Exchange) -> torch.Tensor:
        backend = get_backend("cpu")
        backend.exchange = exchange
        part = slice(exchange.rank * 40, exchange.rank * 40 + 40)
        return backend.tree_linear(x[:, part], weight[:, part], bias, share=2)

    expected = get_backend("cpu").tree_linear(x, weight, bias)
    assert all(torch.equal(found, expected) for found in in_ranks(2, rank))


def test_products_of_another_share_than_there_are_ranks_are_not_mixed() -> None:
    backend = get_backend("cpu")
    backend.exchange = ThreadExchange(0, Meeting(2))
    with pytest.raises(AssertionError, match="among 2 ranks"):
        backend.tree_linear(torch.ones(1, 8), torch.ones(4, 8), None, share=4)
