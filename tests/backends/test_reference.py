"""The row rule, operation by operation: a row's bits do not depend on the other rows or on the threads."""

from __future__ import annotations

import pytest
import torch

from brigade.backends.exact_math import ACTIVATIONS, halving_sum, pair_tree, tree_width
from brigade.backends.reference import ReferenceBackend
from brigade.backends.reference import matmul as matmul_room
from brigade.backends.reference.matmul import DirectMatmul, TiledMatmul, choose_matmul
from brigade.errors import ConfigError

ROWS = (1, 2, 3, 4, 5, 7, 16, 17, 33, 64, 100, 129, 200)
BACKEND = ReferenceBackend()


def rows_hold(function, width: int) -> None:
    """`function` of some rows equals those rows of the function of all, on one thread and on two."""
    generator = torch.Generator().manual_seed(width)
    x = torch.randn(256, width, generator=generator)
    torch.set_num_threads(1)
    whole = function(x)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for rows in ROWS:
            assert torch.equal(function(x[5 : 5 + rows].contiguous()), whole[5 : 5 + rows]), (rows, threads)


@pytest.mark.parametrize(("depth", "width"), [(32, 96), (37, 53), (256, 768), (1000, 300), (1024, 1024), (4096, 64)])
@pytest.mark.parametrize("linear", ["linear", "tree_linear"])
def test_products(depth: int, width: int, linear: str) -> None:
    weight = torch.randn(width, depth, generator=torch.Generator().manual_seed(1))
    bias = torch.randn(width, generator=torch.Generator().manual_seed(2))
    rows_hold(lambda x: getattr(BACKEND, linear)(x, weight, bias), depth)


@pytest.mark.parametrize("depth", [64, 1000])
def test_the_tiled_way_holds_too(depth: int) -> None:
    weight = torch.randn(136, depth, generator=torch.Generator().manual_seed(1))
    rows_hold(lambda x: TiledMatmul()(x, weight), depth)


def test_products_are_right() -> None:
    x, weight = torch.randn(20, 1000, dtype=torch.float64), torch.randn(30, 1000, dtype=torch.float64)
    for way in (DirectMatmul(), TiledMatmul()):
        assert torch.allclose(way(x.float(), weight.float()).double(), x @ weight.t(), atol=1e-3)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("width", [1, 7, 31, 64, 333])
def test_activations(name: str, width: int) -> None:
    rows_hold(lambda x: ACTIVATIONS[name](x * 3), width)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("gelu", torch.nn.functional.gelu),
        ("gelu_tanh", lambda x: torch.nn.functional.gelu(x, approximate="tanh")),
        ("silu", torch.nn.functional.silu),
    ],
)
def test_activations_are_right(name: str, theirs) -> None:
    x = torch.linspace(-30, 30, 4001)
    assert torch.allclose(ACTIVATIONS[name](x), theirs(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["rmsnorm", "layernorm"])
@pytest.mark.parametrize("width", [1, 5, 64, 1000, 1024])
def test_norms(kind: str, width: int) -> None:
    weight, bias = torch.linspace(0.5, 2, width), torch.linspace(-1, 1, width)
    rows_hold(lambda x: BACKEND.norm(kind, x, weight, bias if kind == "layernorm" else None, 1e-5, 0.0), width)


@pytest.mark.parametrize("width", [1, 2, 3, 8, 60, 127])
def test_softmax(width: int) -> None:
    rows_hold(BACKEND.softmax, width)


@pytest.mark.parametrize("width", [1, 2, 3, 5, 8, 13, 64, 100])
def test_the_halving_sum_is_a_sum(width: int) -> None:
    x = torch.arange(width, dtype=torch.float32).expand(3, -1)
    assert halving_sum(x).tolist() == [[width * (width - 1) / 2]] * 3


def test_the_pair_tree_adds_neighbours_first() -> None:
    parts = [torch.tensor(float(2**i)) for i in range(8)]
    assert pair_tree(parts) == 255
    big = [torch.tensor(x) for x in (1e8, 1.0, -1e8, 1.0)]
    assert pair_tree(big) == (torch.tensor(1e8) + 1.0) + (torch.tensor(-1e8) + 1.0)


@pytest.mark.parametrize(("depth", "width"), [(1024, 8), (96, 8), (12, 4), (37, 1), (54, 2)])
def test_the_tree_cuts_evenly(depth: int, width: int) -> None:
    assert tree_width(depth, 8) == width


def test_ranks_can_go_on_with_the_same_tree() -> None:
    """What later layouts rely on: a rank that owns neighbouring blocks holds a subtree, and its partial sum is a node."""
    parts = [torch.randn(4, 4) for _ in range(8)]
    whole = pair_tree(parts)
    for ranks in (2, 4, 8):
        share = 8 // ranks
        partials = [pair_tree(parts[r * share : (r + 1) * share]) for r in range(ranks)]
        assert torch.equal(pair_tree(partials), whole)


def test_a_machine_where_nothing_holds_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(matmul_room, "rows_hold", lambda matmul, device: False)
    with pytest.raises(ConfigError, match="--exact off"):
        choose_matmul(torch.device("cpu"))


def test_a_machine_without_a_strict_library_takes_the_tiled_way(monkeypatch) -> None:
    monkeypatch.setattr(matmul_room, "rows_hold", lambda matmul, device: matmul.name == "tiled")
    assert choose_matmul(torch.device("cpu")).name == "tiled"


def test_the_numerics_id_names_what_decides_the_bits() -> None:
    assert BACKEND.numerics_id.startswith("reference-3/cpu/float32/")
    assert "unordered" in ReferenceBackend(exact=False).numerics_id
