"""NaN and infinity reach the row that they belong to, on every path and both backends, and never another row."""

from __future__ import annotations

import pytest
import torch

from brigade.backends.base import AttentionParams
from brigade.backends.cpu.library import choose_path, find_kernels
from brigade.backends.kv_cache import KVCache
from brigade.backends.registry import get_backend
from brigade.batch import Batch, Span
from tests.backends.cpu.paths import FOUND
from tests.breadth import one_in

NAN, INF = float("nan"), float("inf")
# The last has the most bits set that a NaN can have: rounding it up to bfloat16 as if it were a number gives 0.
NANS = torch.tensor([0x7FC00000, 0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF - (1 << 32)], dtype=torch.int32).view(torch.float32)


@pytest.fixture(params=["reference", *FOUND])
def backend(request: pytest.FixtureRequest):
    if request.param == "reference":
        yield get_backend("reference")
        return
    choose_path(request.param)
    yield get_backend("cpu")
    choose_path("")


@pytest.fixture(params=FOUND)
def path(request: pytest.FixtureRequest):
    if find_kernels() is None:
        pytest.skip("the C++ kernels are not built: no compiler on this machine")
    choose_path(request.param)
    yield request.param
    choose_path("")


def spoiled(x: torch.Tensor, *place: int, value: float | torch.Tensor = NAN) -> torch.Tensor:
    x = x.clone()
    x[place] = value
    return x


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.view(torch.int32), b.view(torch.int32))


@pytest.mark.parametrize("kind", ["gelu", "gelu_tanh", "relu", "silu"])
def test_an_activation_of_nan_is_nan_and_no_neighbour_sees_it(backend, kind: str) -> None:
    x = torch.randn(37, generator=torch.Generator().manual_seed(0))
    expected = backend.activate(kind, x)
    for place in (0, 3, 17, 36):
        found = backend.activate(kind, spoiled(x, place))
        assert found[place].isnan()
        assert same(spoiled(found, place, value=0.0), spoiled(expected, place, value=0.0))


def test_relu_of_minus_zero_is_zero(backend) -> None:
    found = backend.activate("relu", torch.tensor([-0.0, 0.0, -1.0, 2.0]))
    assert found.tolist() == [0.0, 0.0, 0.0, 2.0]
    if backend.name == "cpu":
        assert not torch.signbit(found).any()


@pytest.mark.parametrize("broken", [NAN, INF, -INF])
def test_a_softcap_of_what_is_not_finite_is_nan(backend, broken: float) -> None:
    x = torch.randn(2, 40, generator=torch.Generator().manual_seed(0)) * 100
    expected, found = backend.softcap(x, 30.0), backend.softcap(spoiled(x, 1, 35, value=broken), 30.0)
    assert expected.abs().max() <= 30.0
    assert found[1, 35].isnan() and same(spoiled(found, 1, 35, value=0.0), spoiled(expected, 1, 35, value=0.0))


@pytest.mark.parametrize("broken", [NAN, INF])
def test_a_softmax_row_with_one_broken_number_is_nan(backend, broken: float) -> None:
    x = torch.randn(3, 19, generator=torch.Generator().manual_seed(0))
    expected = backend.softmax(x)
    for place in (0, 5, 18):
        found = backend.softmax(spoiled(x, 1, place, value=broken))
        assert found[1].isnan().all() and same(found[::2], expected[::2])


@pytest.mark.parametrize("kind", ["rmsnorm", "layernorm"])
@pytest.mark.parametrize("broken", [NAN, INF])
def test_a_norm_keeps_a_broken_number(backend, kind: str, broken: float) -> None:
    x = torch.randn(3, 37, generator=torch.Generator().manual_seed(0))
    expected, found = (backend.norm(kind, y, None, None, 1e-5, 0.0) for y in (x, spoiled(x, 1, 36, value=broken)))
    assert found[1, 36].isnan() and same(found[::2], expected[::2])


@pytest.mark.parametrize("scheme", ["float32", "bfloat16", "int8", "int8-weight", "int4", "int4-int8"])
def test_a_broken_number_reaches_every_product_of_its_row_alone(path: str, scheme: str) -> None:
    from brigade.backends.cpu.matrix import pack

    generator = torch.Generator().manual_seed(0)
    packed, x = pack(torch.randn(65, 300, generator=generator), None, scheme, tree=True), torch.randn(5, 300, generator=generator)
    expected = packed(x)
    for value in (*NANS, INF, -INF):
        for place in (0, 100, 299):
            found = packed(spoiled(x, 2, place, value=value))
            assert not found[2].isfinite().any() and (value == value or found[2].isnan().all())
            assert same(found[[0, 1, 3, 4]], expected[[0, 1, 3, 4]])


@pytest.mark.parametrize("scheme", ["float32", "bfloat16", "int8", "int8-weight", "int4", "int4-int8"])
@pytest.mark.parametrize("broken", [NAN, INF])
def test_a_broken_weight_reaches_every_row_of_its_output(path: str, scheme: str, broken: float) -> None:
    from brigade.backends.cpu.matrix import pack

    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(65, 300, generator=generator), torch.randn(5, 300, generator=generator)
    expected = pack(weight, None, scheme, tree=False)(x)
    for place in (0, 150, 299):
        found = pack(spoiled(weight, 40, place, value=broken), None, scheme, tree=False)(x)
        assert not found[:, 40].isfinite().any()
        others = [n for n in range(65) if n != 40]
        assert same(found[:, others], expected[:, others])


LENGTH, BAD = 100, 40
STEPS = [[LENGTH], [36, 50, 14], [41, 1, 1, 57], [1] * LENGTH]


def attended(backend, q, k, v, params, steps, dtype) -> torch.Tensor:
    """A span in its own blocks, in such steps."""
    cache = KVCache.allocate(1, 6, k.shape[1], 32, backend.cache_dim(k.shape[2]), dtype)
    out, start = [], 0
    for count in steps:
        here = [x[start : start + count] for x in (q, k, v)]
        step = backend.begin_step(Batch((Span(range(count), start, [3, 0, 5, 1, 2]),)), cache, [params.window])
        out.append(backend.attention(*here, params, step))
        start += count
    return torch.cat(out)


@pytest.mark.parametrize(
    ("what", "broken", "window", "softcap", "dtype"),
    one_in(3, ["query", "key", "value"], [NAN, INF], [None, 9], [None, 5.0], [torch.float32, torch.bfloat16]),
    ids=str,
)
def test_attention_shows_it_to_those_who_see_it_and_to_nobody_else(backend, what, broken, window, softcap, dtype) -> None:
    """Position 40 is broken. Its tile of 64 positions is shared with rows before it, whose weight of it is 0, and in a window with
    rows behind it that see it no more. Their results have the bits of an unbroken sequence, however the steps are cut."""
    heads, kv_heads, dim = 4, 2, 20
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(LENGTH, n, dim, generator=generator) for n in (heads, kv_heads, kv_heads))
    params = AttentionParams(0, 0.25, window, softcap)
    expected = attended(backend, q, k, v, params, [LENGTH], dtype)
    tensors = {"query": q, "key": k, "value": v}
    tensors[what] = spoiled(tensors[what], BAD, value=broken)
    last = BAD if what == "query" else LENGTH - 1 if window is None else BAD + window - 1
    sees = torch.zeros(LENGTH, dtype=torch.bool)
    sees[BAD : last + 1] = True
    for steps in STEPS:
        found = attended(backend, *tensors.values(), params, steps, dtype)
        assert same(found[~sees], expected[~sees])
        # An infinite key may only take all weight away from itself: its score is minus infinity for some of the queries.
        assert not found[sees].isfinite().any() or (what, broken) == ("key", INF)
        assert not found[sees].isfinite().all()
