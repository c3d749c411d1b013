"""Exchanges equal a plain computation, bit for bit, in both ways and at every length at which the way changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from brigade.backends.cpu.library import find_kernels
from brigade.mesh import Mesh
from brigade.parallel.memory import SLOT_BYTES
from tests.parallel.threads import make_links, on_threads

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

FEW = 128 << 10  # of csrc/exchange.cpp
WAYS = [("shared", 0), ("shared", 2000), ("group", 0)]
SIZES = [2, 4, 8]


def hard_numbers(size: int, count: int, seed: int) -> torch.Tensor:
    """Of every magnitude, with sums in which nearly everything cancels, and with numbers that are none."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((size, count)) * 10.0 ** rng.integers(-40, 38, (size, count))).astype(np.float32)
    x[1, ::2] = -x[0, ::2] * np.float32(1 + 2**-20)
    for value in (np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-45):
        x[rng.integers(size, size=count // 50), rng.integers(count, size=count // 50)] = value
    return torch.from_numpy(x)


def plain_tree(parts: list[np.ndarray]) -> np.ndarray:
    """Neighbours first, written out."""
    with np.errstate(all="ignore"):
        if len(parts) == 2:
            return parts[0] + parts[1]
        if len(parts) == 4:
            return (parts[0] + parts[1]) + (parts[2] + parts[3])
        return ((parts[0] + parts[1]) + (parts[2] + parts[3])) + ((parts[4] + parts[5]) + (parts[6] + parts[7]))


def same_bits(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Where both are NaN, they need not be the same NaN."""
    nan = torch.isnan(x)
    return torch.equal(nan, torch.isnan(y)) and torch.equal(x.view(torch.int32)[~nan], y.view(torch.int32)[~nan])


def lengths(size: int) -> list[int]:
    """Around the borders of a piece, and of one phase and two."""
    few, piece = FEW // 4 // size, SLOT_BYTES // 4
    return [1, 15, 17, 1024, few - 1, few, few + 1, few + 16 * size + 3, piece - 1, piece, piece + 1, 2 * piece + few + 7]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("way", "spins"), WAYS)
def test_the_tree_adds_neighbours_first(way, spins, size) -> None:
    links = make_links(Mesh(tp=size), way, spins)
    given = [hard_numbers(size, count, seed=count) for count in lengths(size)]
    found = on_threads(size, lambda rank: [links[rank].exchange.tree(x[rank].clone()) for x in given])
    for case, x in enumerate(given):
        expected = torch.from_numpy(plain_tree(list(x.numpy())))
        assert torch.isfinite(expected).any() or x.shape[1] == 1
        for rank in range(size):
            assert same_bits(found[rank][case], expected), (rank, x.shape)


def test_the_numbers_of_the_test_are_hard_enough() -> None:
    """Another order of the same additions shows."""
    x = list(hard_numbers(4, 1024, seed=1).numpy())
    assert not same_bits(torch.from_numpy(plain_tree(x)), torch.from_numpy(plain_tree([x[0], x[2], x[1], x[3]])))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("way", "spins"), WAYS)
def test_whole_numbers_are_added_too(way, spins, size) -> None:
    links = make_links(Mesh(tp=size), way, spins)
    x = torch.from_numpy(np.random.default_rng(0).integers(-(2**31), 2**31, (size, FEW // 4 + 5), dtype=np.int32))
    found = on_threads(size, lambda rank: links[rank].exchange.tree(x[rank].clone()))
    assert all(torch.equal(each, x.sum(0, dtype=torch.int64).to(torch.int32)) for each in found)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("way", "spins"), WAYS)
def test_nan_is_above_infinity_which_is_above_numbers(way, spins, size) -> None:
    links = make_links(Mesh(tp=size), way, spins)
    x = hard_numbers(size, SLOT_BYTES // 4 + 3, seed=2).abs()
    x[0, :5] = torch.tensor([float("nan"), 1.0, float("inf"), 0.0, -0.0])
    x[1, :5] = torch.tensor([1.0, -float("nan"), float("nan"), 0.0, 1.0])
    x[2:, :5] = 0.0
    given = x.clone()
    found = on_threads(size, lambda rank: links[rank].exchange.maximum(given[rank]))
    assert all(same_bits(each, x.amax(0)) for each in found)
    assert torch.isnan(found[0][:3]).all() and found[0][3:5].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("way", "spins"), WAYS)
def test_a_row_is_chosen_as_its_owner_has_it(way, spins, size) -> None:
    links = make_links(Mesh(tp=size), way, spins)
    x = hard_numbers(size, 40 * 33, seed=3).reshape(size, 40, 33)
    owners = torch.arange(40) * 7 % size
    found = on_threads(size, lambda rank: links[rank].exchange.choose(x[rank], owners))
    for each in found:
        assert torch.equal(each.view(torch.int32), torch.stack([x[owners[t], t] for t in range(40)]).view(torch.int32))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("way", "spins"), WAYS)
def test_columns_are_gathered_on_rank_0_in_the_order_of_ranks(way, spins, size) -> None:
    links = make_links(Mesh(tp=size), way, spins)
    widths = [32 + 16 * (rank % 3) for rank in range(size)]
    whole = torch.arange(50.0 * sum(widths)).reshape(50, sum(widths))
    parts = whole.split(widths, dim=1)
    found = on_threads(size, lambda rank: links[rank].exchange.gather(parts[rank], widths))
    assert torch.equal(found[0], whole) and all(each is None for each in found[1:])


@pytest.mark.parametrize(("way", "spins"), WAYS)
def test_bytes_of_any_length_are_gathered_on_all(way, spins) -> None:
    links = make_links(Mesh(tp=4), way, spins)
    given = [b"", b"a", b"\0" * 3, bytes(range(256)) * 3000]
    for every in on_threads(
        4, lambda rank: [links[rank].exchange.gather_bytes(given[rank]), links[rank].exchange.gather_bytes(b"")]
    ):
        assert every == [given, [b""] * 4]


@pytest.mark.parametrize("way", ["shared", "group"])
def test_an_exchange_counts_what_it_costs(way) -> None:
    links = make_links(Mesh(tp=2), way)
    on_threads(2, lambda rank: [links[rank].exchange.tree(torch.ones(100)) for _ in range(5)])
    for each in links:
        assert each.exchange.calls == 5 and each.exchange.bytes == 2000 and 0 < each.exchange.seconds < 5
        assert each.seconds["exchange"] == each.exchange.seconds
