"""A layer in one native call has the bits of the same layer put together operation by operation, in every arrangement."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from brigade.backends.cpu.library import choose_path, find_kernels
from brigade.backends.cpu.packer import Packer

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

from brigade.backends.cpu.layer import NativeLayer, fits
from brigade.backends.cpu.matrix import KINDS
from brigade.backends.kv_cache import KVCache
from brigade.backends.registry import get_backend
from brigade.batch import Batch, Span, Wanted
from brigade.config import ModelConfig, RopeConfig
from brigade.model.gpt_model import GPTModel
from tests.backends.cpu.paths import PATHS
from tests.breadth import one_in
from tests.engine.test_exact_shapes import networks

BASE = ModelConfig(
    "layer", vocab_size=5, num_layers=1, hidden_size=40, num_heads=6, num_kv_heads=2, head_dim=20, ffn_size=48, max_positions=128,
    rope=RopeConfig(rotary_dim=20),
)  # fmt: skip
ARRANGEMENTS = {
    "pre-norm": {},
    "parallel": {"parallel_residual": True, "norm": "layernorm"},
    "post-norm": {"norm_after": True, "norm": "layernorm"},
    "sandwich": {"sandwich_norm": True, "norm_weight_offset": 1.0},
    "norm of each head": {"qk_norm": "head"},
    "norm of all heads": {"qk_norm": "full"},
    "clip": {"qkv_clip": 0.7, "qk_norm": "full"},
    "softcap": {"attention_softcap": 4.0},
    "window": {"sliding_window": 9},
    "biases": {"qkv_bias": True, "out_bias": True, "mlp_bias": True},
    "not gated": {"gated": False, "activation": "gelu"},
    "not gated, odd": {"gated": False, "activation": "relu", "ffn_size": 37},
    "gated, odd": {"activation": "gelu_tanh", "ffn_size": 37, "hidden_size": 33},
    "part of the head turns": {"rope": RopeConfig(rotary_dim=6)},
    "interleaved": {"rope": RopeConfig(rotary_dim=14, interleaved=True)},
    "stretched positions": {"rope": RopeConfig(rotary_dim=20, scaling="linear", factor=3.0)},
    "no positions": {"position": "none", "rope": None},
}


def make_layer(config: ModelConfig, backend, seed: int):
    model = GPTModel(config, backend).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        wide = parameter.ndim > 1
        parameter.normal_(0.0 if wide else 1.0, 1.5 / parameter.shape[-1] ** 0.5 if wide else 0.2, generator=generator)
    return model.layers[-1], model.rope_tables()


def by_operation(layer, packer: Packer):
    """The layer as it is, its matrices packed one by one."""
    layer = copy.deepcopy(layer)
    linears = [("attention.qkv", layer.attention.qkv, False), ("attention.out", layer.attention.out, True)]
    if hasattr(layer.mlp, "up"):
        linears += [("mlp.up", layer.mlp.up, False), ("mlp.down", layer.mlp.down, True)]
    for name, linear, tree in linears:
        packed = packer(f"layers.0.{name}", linear.weight, linear.bias, tree=tree)
        del linear.weight
        linear.weight, linear.bias = packed, None
    return layer


def compare(config: ModelConfig, scheme: str, kv_dtype: torch.dtype, seed: int) -> None:
    backend = get_backend("cpu")
    layer, tables = make_layer(config, backend, seed)
    assert fits(layer)
    if scheme in ("float32", "bfloat16"):
        layer.to(getattr(torch, scheme))
    else:
        backend.quantise(scheme)
    single = by_operation(layer, Packer(backend.quant))
    rope = tables.get(layer.attention.rope)
    native, last = (NativeLayer(copy.deepcopy(layer), "layers.0", Packer(backend.quant), rope, last) for last in (False, True))
    single.attention.params = native.params = last.params = replace(native.params, layer=0)
    dim = backend.cache_dim(config.head_dim)
    caches = [KVCache.allocate(1, 4, config.num_kv_heads, 32, dim, kv_dtype) for _ in range(3)]
    generator = torch.Generator().manual_seed(seed + 1)
    for start, count in [(0, 45), (45, 1), (46, 3)]:  # a prompt, a token, a chunk; beside a neighbour that begins anew
        batch = Batch((Span(range(count), start, [2, 0]), Span(range(2), 0, [3])))
        x = torch.randn(count + 2, config.hidden_size, generator=generator)
        results = []
        for one, cache in zip((native, single, last), caches, strict=True):
            step = backend.begin_step(batch, cache, [None])
            rotary = {rope: (table.cos[step.positions_T], table.sin[step.positions_T]) for rope, table in tables.items()}
            results.append(one(x.clone(), step, rotary))
        assert torch.isfinite(results[0]).all() and not torch.equal(results[0], x)
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0][step.logit_rows], results[2])  # a model's last layer goes on with wanted rows alone
    for cache in caches[1:]:
        assert torch.equal(caches[0].keys[0], cache.keys[0]) and torch.equal(caches[0].values[0], cache.values[0])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("name", "scheme"), one_in(2, ARRANGEMENTS, KINDS))
def test_one_call_has_the_bits_of_many(name: str, scheme: str, path: str) -> None:
    choose_path(path)
    try:
        compare(replace(BASE, **ARRANGEMENTS[name]), scheme, torch.float32, 0)
        compare(replace(BASE, **ARRANGEMENTS[name]), scheme, torch.bfloat16, 1)
    finally:
        choose_path("")


@given(config=networks(), scheme=st.sampled_from(sorted(KINDS)), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_so_do_layers_of_any_shape(config: ModelConfig, scheme: str, dtype: torch.dtype) -> None:
    assume(not (config.is_moe(1) and (config.parallel_residual or config.norm_after)))  # these stay in Python
    compare(config, scheme, dtype, 2)


@pytest.mark.parametrize("name", [name for name in ARRANGEMENTS if name != "pre-norm"])
def test_every_arrangement_shows(name: str) -> None:
    """Guards the comparison: with the same weights the plain arrangement says something else."""
    backend, results = get_backend("cpu"), []
    changed = replace(BASE, **ARRANGEMENTS[name])
    for config in (changed, replace(BASE, hidden_size=changed.hidden_size)):
        layer, tables = make_layer(config, backend, 0)
        native = NativeLayer(layer, "layers.0", Packer(backend.quant), tables.get(layer.attention.rope))
        cache = KVCache.allocate(1, 4, config.num_kv_heads, 32, backend.cache_dim(config.head_dim))
        x = torch.randn(30, config.hidden_size, generator=torch.Generator().manual_seed(0))
        results.append(native(x, backend.begin_step(Batch((Span(range(30), 0, [1]),)), cache, [None]), {}))
    assert not torch.equal(*results)


def test_a_step_longer_than_a_slice_has_the_bits_of_short_ones() -> None:
    """1100 rows are cut in three inside; the wanted rows lie on both sides of the cuts, and one cut has none."""
    backend = get_backend("cpu")
    layer, tables = make_layer(replace(BASE, max_positions=1024), backend, 0)
    rope, ids = tables.get(layer.attention.rope), range(600)
    whole, last = (NativeLayer(copy.deepcopy(layer), "layers.0", Packer(backend.quant), rope, last) for last in (False, True))
    x = torch.randn(1100, BASE.hidden_size, generator=torch.Generator().manual_seed(0))
    ours, theirs = list(range(20)), list(range(20, 40))

    def run(layer, cache: KVCache, x, *spans: Span):
        step = backend.begin_step(Batch(spans), cache, [None])
        return layer(x.clone(), step, {}), step

    def cache() -> KVCache:
        return KVCache.allocate(1, 40, BASE.num_kv_heads, 32, backend.cache_dim(BASE.head_dim))

    both = (Span(ids, 0, ours), Span(range(500), 0, theirs, Wanted.NONE))
    got, step = run(whole, cache(), x, *both)
    short = cache()
    pieces = [run(whole, short, x[a : a + 100], Span(range(100), a, ours))[0] for a in range(0, 600, 100)]
    pieces += [run(whole, short, x[600 + a : 700 + a], Span(range(100), a, theirs))[0] for a in range(0, 500, 100)]
    assert torch.equal(got, torch.cat(pieces))
    assert step.logit_rows.tolist() == [599]
    assert torch.equal(run(last, cache(), x, *both)[0], got[599:600])
    few = (Span(ids, 0, ours, Wanted.ALL), Span(range(500), 0, theirs))
    assert torch.equal(run(last, cache(), x, *few)[0], torch.cat([got[:600], got[-1:]]))


def test_a_row_that_wants_its_best_id_is_computed_like_one_that_is_sampled() -> None:
    backend, rows = get_backend("cpu"), []
    cache = KVCache.allocate(1, 4, 1, 32, 32)
    for wanted in (Wanted.LAST, Wanted.BEST):
        spans = (Span(range(3), 0, [0], wanted), Span(range(2), 0, [1], Wanted.ALL), Span(range(2), 0, [2], Wanted.NONE))
        rows.append(backend.begin_step(Batch(spans), cache, [None]).logit_rows.tolist())
    assert rows == [[2, 3, 4], [2, 3, 4]]
