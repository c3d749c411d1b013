"""A layer that is cut over ranks has the bits of the whole one: on every rank, in every arrangement, for every kind of matrix."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from brigade.backends.cpu.library import BrExchange, BrMaximum, BrTree, choose_path, find_kernels, kernels

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

from brigade.backends.exchange import Exchange
from brigade.backends.registry import get_backend
from brigade.batch import Batch, Span, Wanted
from brigade.config import ModelConfig, MoEConfig, RopeConfig
from brigade.errors import RankFailed
from tests.backends.cpu.paths import FOUND
from tests.backends.cpu.ranks import Meeting, ThreadExchange, Whole, empty_part, in_ranks, make_model, random_weights, run
from tests.breadth import one_in

# 160 channels of attention and 72 of the MLP: blocks of 20 and 9, which are no whole heads, panels or vectors.
BASE = ModelConfig(
    "ranks", vocab_size=61, num_layers=2, hidden_size=40, num_heads=8, num_kv_heads=2, head_dim=20, ffn_size=72, max_positions=1024,
    rope=RopeConfig(rotary_dim=20),
)  # fmt: skip
EXPERTS = MoEConfig(num_experts=4, top_k=2, expert_ffn_size=24, shared_ffn_size=16)
ARRANGEMENTS = {
    "pre-norm": {},
    "parallel": {"parallel_residual": True, "norm": "layernorm"},
    "post-norm": {"norm_after": True, "norm": "layernorm"},
    "sandwich": {"sandwich_norm": True, "norm_weight_offset": 1.0},
    "not gated, biases": {"gated": False, "activation": "gelu", "qkv_bias": True, "out_bias": True, "mlp_bias": True},
    "whole panels": {"hidden_size": 64, "head_dim": 32, "ffn_size": 256, "mlp_bias": True, "rope": RopeConfig(rotary_dim=32)},
    "heads of their own": {"num_kv_heads": 8, "qk_norm": "head", "sliding_window": 9, "attention_softcap": 4.0},
    "experts": {"moe": EXPERTS, "sandwich_norm": True},
}
FORMATS = (  # of the weights, and what quantises them
    ("float32", "none"), ("bfloat16", "none"), ("float32", "int8"), ("float32", "int8-weight"), ("bfloat16", "int4"),
    ("float32", "int4-int8"),
)  # fmt: skip
BATCHES = [  # a prompt beside another one's chunk, whose rows nobody wants; then tokens and chunks
    Batch((Span(range(37), 0, [2, 0]), Span(range(5), 0, [3], Wanted.NONE))),
    Batch((Span(range(1), 37, [2, 0]), Span(range(3), 5, [3], Wanted.ALL))),
    Batch((Span(range(2), 38, [2, 0]), Span(range(1), 8, [3]))),
    Batch((Span(range(2), 9, [3], Wanted.NONE),)),
]


def parts_of(
    config: ModelConfig, weights: Whole, scheme: str, size: int, kind=ThreadExchange, batches=BATCHES
) -> list[list[Tensor]]:
    dtype = next(iter(weights.tensors.values())).dtype
    return in_ranks(size, lambda exchange: run(make_model(config, weights, scheme, exchange), batches, dtype), kind)


def check(config: ModelConfig, dtype: str, scheme: str, sizes: tuple[int, ...], batches=BATCHES) -> None:
    weights = random_weights(config, getattr(torch, dtype))
    expected = run(make_model(config, weights, scheme), batches, getattr(torch, dtype))
    assert all(torch.isfinite(x).all() for x in expected) and expected[0].abs().max() > 0.1
    for size in sizes:
        for rank, found in enumerate(parts_of(config, weights, scheme, size, batches=batches)):
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), f"rank {rank} of {size}"


@pytest.fixture
def path(request: pytest.FixtureRequest):
    choose_path(request.param)
    yield request.param
    choose_path("")


@pytest.mark.parametrize(("name", "form"), one_in(3, ARRANGEMENTS, FORMATS), ids=str)
def test_every_rank_has_the_bits_of_one(name: str, form: tuple[str, str]) -> None:
    check(replace(BASE, **ARRANGEMENTS[name]), *form, (8,))


@pytest.mark.slow
@pytest.mark.parametrize("dtype, scheme", FORMATS, ids=map("-".join, FORMATS))
@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_fewer_ranks_have_them_too(name: str, dtype: str, scheme: str) -> None:
    check(replace(BASE, **ARRANGEMENTS[name]), dtype, scheme, (2, 4))


@pytest.mark.parametrize("path", FOUND, indirect=True)
@pytest.mark.parametrize("dtype, scheme", FORMATS, ids=map("-".join, FORMATS))
def test_so_they_have_on_every_path(dtype: str, scheme: str, path: str) -> None:
    check(replace(BASE, moe=replace(EXPERTS, layers=(1,))), dtype, scheme, (4,))


@pytest.mark.parametrize("dtype, scheme", [("bfloat16", "none"), ("bfloat16", "int8")])
def test_a_step_longer_than_a_slice_is_exchanged_slice_by_slice(dtype: str, scheme: str) -> None:
    """Of 700 rows the wanted ones lie in the second slice: the last layer has nothing to exchange in the first."""
    check(replace(BASE, num_layers=1), dtype, scheme, (2,), [Batch((Span([i % 61 for i in range(700)], 0, range(22)),))])


def test_ranks_take_turns_at_a_pool_of_threads() -> None:
    """A rank that waits for another holds nothing that the other needs."""
    kernels().br_threads(2, -1)
    check(BASE, "bfloat16", "int8", (4,))


class OwnMaximum(ThreadExchange):
    def maximum(self, most_T: Tensor) -> Tensor:
        columns = 64  # padded: of weights, at loading
        return super().maximum(most_T) if most_T.numel() == columns else most_T


class OneByOne(ThreadExchange):
    def tree(self, part: Tensor) -> Tensor:
        first, *others = self._all("tree", part)
        for other in others:
            first = first + other
        return first


@pytest.mark.parametrize("scheme, kind, near", [("int8", OwnMaximum, False), ("none", OneByOne, True)])
def test_an_exchange_that_says_something_else_shows(scheme: str, kind: type[Exchange], near: bool) -> None:
    """Guards the comparison. Rows that each rank quantises by its own maximum have no sum at all; another order of the additions
    shows in the last bits."""
    weights = random_weights(BASE)
    expected = run(make_model(BASE, weights, scheme), BATCHES)[0]
    found = parts_of(BASE, weights, scheme, 4, kind)[0][0]
    assert not torch.equal(found, expected) and torch.allclose(found, expected, atol=1e-3) is near


def test_a_layer_exchanges_twice_and_all_experts_once() -> None:
    """int8: a maximum of each row before each sum."""
    one = [Batch((Span(range(7), 0, [1]), Span(range(2), 0, [2])))]

    def calls(config: ModelConfig, scheme: str) -> list:
        weights = random_weights(config)

        def live(exchange: ThreadExchange) -> list:
            model = make_model(config, weights, scheme, exchange)
            exchange.calls.clear()  # those of loading
            run(model, one)
            return exchange.calls

        first, second = in_ranks(2, live)
        assert first == second
        return first

    dense, experts = replace(BASE, num_layers=1), replace(BASE, num_layers=1, moe=replace(EXPERTS, shared_ffn_size=0))
    rows = 2  # of the last layer only wanted rows are left
    plain = ("tree", (rows, 40), torch.float32)
    assert calls(dense, "none") == [plain, plain]
    most, whole = ("maximum", (rows,), torch.float32), ("tree", (rows, 40), torch.int32)
    assert calls(dense, "int8") == [most, whole, most, whole]
    most_2, whole_2 = ("maximum", (2 * rows,), torch.float32), ("tree", (2 * rows, 40), torch.int32)
    assert calls(experts, "none") == [plain, ("tree", (2 * rows, 40), torch.float32)]
    assert calls(experts, "int8") == [most, whole, most_2, whole_2]


@pytest.mark.parametrize("scheme", ["none", "int8", "int4-int8", "int4"])
def test_a_broken_row_stays_broken_on_every_rank_and_alone(scheme: str) -> None:
    """The word of id 3 is not a number in a channel: its rows are the ones that nobody can trust."""
    weights = random_weights(BASE)
    whole = run(make_model(BASE, weights, scheme), [Batch((Span([1, 2], 0, [1], Wanted.ALL), Span([4, 5], 0, [2], Wanted.ALL)))])[0]
    weights.tensors["embedding.word"][3, 7] = float("nan")
    batches = [Batch((Span([1, 3], 0, [1], Wanted.ALL), Span([4, 5], 0, [2], Wanted.ALL)))]
    for found in parts_of(BASE, weights, scheme, 2, batches=batches):
        assert not found[0][1].isfinite().any() and torch.equal(found[0][[0, 2, 3]], whole[[0, 2, 3]])


class Stopping(ThreadExchange):
    def tree(self, part: Tensor) -> Tensor:
        if len(self.calls) == 2:
            raise ConnectionError("rank 1 left")
        return super().tree(part)


@pytest.mark.parametrize("moe", [None, EXPERTS], ids=["dense", "experts"])
def test_an_error_of_an_exchange_ends_the_step_at_once(moe: MoEConfig | None) -> None:
    seen: list[Stopping] = []

    def live(exchange: Stopping) -> None:
        seen.append(exchange)
        run(make_model(replace(BASE, moe=moe), random_weights(replace(BASE, moe=moe)), "none", exchange), BATCHES)

    with pytest.raises(ConnectionError, match="rank 1 left"):
        in_ranks(2, live, Stopping)
    assert [len(exchange.calls) for exchange in seen] == [2, 2]


def test_a_native_exchange_is_called_as_it_is_and_its_failure_named() -> None:
    """Of a `BrExchange` that is no Python: its number is the only thing it says."""
    calls = []

    def tree(state, part, rows, width, whole) -> int:
        calls.append((state, rows, width, whole))
        return 7 if len(calls) == 2 else 0

    struct = BrExchange(rank=1, size=2, state=1234, tree=BrTree(tree), maximum=BrMaximum(lambda state, most, count: 0))

    class Native(ThreadExchange):
        native = ctypes.addressof(struct)

        def maximum(self, most_T: Tensor) -> Tensor:
            return most_T  # of weights, at loading

    exchange = Native(1, Meeting(2))
    model = make_model(BASE, random_weights(BASE), "int8", exchange)
    with pytest.raises(RankFailed, match="another rank is gone"), torch.inference_mode():
        run(model, [Batch((Span(range(7), 0, [1]),))])
    assert calls == [(1234, 7, 40, 1)] * 2 and not exchange.calls


def test_a_part_for_other_ranks_is_not_taken() -> None:
    backend = get_backend("cpu")
    backend.exchange = ThreadExchange(0, Meeting(4))
    model = empty_part(BASE, backend, ThreadExchange(0, Meeting(2)))
    with pytest.raises(AssertionError, match=r"attention\.out is one of 2 parts among 4 ranks"):
        backend.prepare(model, random_weights(BASE))
