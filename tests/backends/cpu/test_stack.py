"""A step of few rows goes through all layers, the last norm and the head in one native call, with the bits of layer by layer."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from brigade.backends.cpu.library import choose_path, find_kernels

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

from brigade.backends.cpu import stack
from brigade.backends.cpu.matrix import KINDS
from brigade.backends.cpu.stack import FEW_ROWS
from brigade.backends.kv_cache import KVCache
from brigade.backends.registry import get_backend
from brigade.batch import Batch, Span, Wanted
from brigade.config import ModelConfig, MoEConfig, RopeConfig
from brigade.mesh import Part
from brigade.model.gpt_model import GPTModel, empty_model
from tests.backends.cpu.paths import PATHS
from tests.backends.cpu.ranks import in_ranks, make_model, random_weights
from tests.engine.test_exact_shapes import networks

BASE = ModelConfig(
    "stack", vocab_size=50, num_layers=3, hidden_size=40, num_heads=6, num_kv_heads=2, head_dim=20, ffn_size=48, max_positions=160,
    rope=RopeConfig(rotary_dim=20),
)  # fmt: skip
VARIANTS = {
    "plain": {},
    "tied head": {"tied_head": True},
    "capped logits": {"logit_softcap": 3.0},
    "scaled embedding": {"embedding_scale": 6.5},
    "learned positions": {"position": "learned", "rope": None},
    "norms behind the sums": {"norm_after": True},
    "no last norm": {"norm_after": True, "final_norm": False},
    "biased head": {"head_bias": True},
    "windows": {"sliding_window": 9},
}
EXPERTS = MoEConfig(3, 2, 24)
STEPS = [  # a prompt that is too long, its next token beside a neighbour's first ones, and a chunk of which nobody wants logits
    Batch((Span(range(40), 0, [2, 0]),)),
    Batch((Span([7], 40, [2, 0]), Span(range(5), 0, [3]))),
    Batch((Span([9], 41, [2, 0]), Span(range(6), 5, [3], Wanted.NONE))),
    Batch((Span([1], 42, [2, 0]), Span(range(4), 11, [3], Wanted.ALL))),
    Batch((Span([3], 43, [2, 0]),)),
    Batch((Span([4, 5], 44, [2, 0], Wanted.NONE),)),
]


def logits_of(model: GPTModel, dtype: torch.dtype = torch.bfloat16) -> tuple[list[Tensor], list[int]]:
    """Of each step, and how many layers were finished when it was."""
    config = model.config
    cache = KVCache.allocate(config.num_layers, 4, config.num_kv_heads, 32, model.backend.cache_dim(config.head_dim), dtype)
    found, layers, before = [], [], model.layers_finished
    for batch in STEPS:
        found.append(model(batch, cache))
        layers.append(model.layers_finished - before)
    return found, layers


def layer_by_layer(model: GPTModel) -> GPTModel:
    model.at_once = None
    return model


def compare(config: ModelConfig, scheme: str) -> None:
    weights = random_weights(config, torch.bfloat16)
    model, other = (make_model(config, weights, scheme) for _ in range(2))
    assert model.at_once is not None
    at_once, counts = logits_of(model)
    one_by_one, others = logits_of(layer_by_layer(other))
    assert counts == others == [config.num_layers * (i + 1) for i in range(len(STEPS))]
    for one, two, batch in zip(at_once, one_by_one, STEPS, strict=True):
        assert one.shape == (batch.num_logits, config.vocab_size) and one.dtype == torch.float32
        assert torch.equal(one, two)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("scheme", ["none", *(kind for kind in sorted(KINDS) if kind.startswith("int"))])
def test_one_call_has_the_bits_of_layer_by_layer(path: str, scheme: str) -> None:
    choose_path(path)
    try:
        compare(BASE, scheme)
    finally:
        choose_path("")


@pytest.mark.parametrize("name", VARIANTS)
def test_so_it_has_around_the_layers(name: str) -> None:
    compare(replace(BASE, **VARIANTS[name]), "none")


@given(config=networks())
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_so_it_has_for_any_shape(config: ModelConfig) -> None:
    compare(replace(config, moe=None, vocab_size=config.vocab_size + 40), "int8")


def test_only_short_steps_go_at_once() -> None:
    model = make_model(BASE, random_weights(BASE))
    cache = KVCache.allocate(BASE.num_layers, 2, BASE.num_kv_heads, 32, model.backend.cache_dim(BASE.head_dim))
    for rows in (1, FEW_ROWS, FEW_ROWS + 1):
        step = model.backend.begin_step(Batch((Span(range(rows), 0, [0]),)), cache, model.windows)
        assert (model.at_once(model.embedding(step), step) is None) == (rows > FEW_ROWS)


@pytest.mark.parametrize("changes", [{"moe": EXPERTS}, {"embedding_size": 24}])
def test_what_is_computed_in_python_goes_layer_by_layer(changes: dict) -> None:
    config = replace(BASE, **changes)
    assert make_model(config, random_weights(config)).at_once is None


def test_so_do_ranks() -> None:
    weights = random_weights(BASE)
    assert in_ranks(2, lambda exchange: make_model(BASE, weights, "none", exchange).at_once) == [None, None]


@pytest.mark.parametrize("layer", range(BASE.num_layers))
def test_so_does_a_stage_of_a_pipeline(layer: int) -> None:
    """The first has the word table, the last the head, and one between them has neither."""
    part, backend = Part(layer, layer + 1, BASE.num_layers), get_backend("cpu")
    model = empty_model(BASE, backend, held=part).eval().requires_grad_(False)
    backend.prepare(model, random_weights(BASE))
    assert model.at_once is None


def test_so_do_large_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two layers a signal is heard, and of a long step Python is a small part."""
    monkeypatch.setattr(stack, "MOST_BYTES", 1000)
    assert make_model(BASE, random_weights(BASE)).at_once is None


@pytest.mark.parametrize("place", ["final_norm", "head"])
def test_so_does_a_model_with_an_end_of_its_own(place: str) -> None:
    class Own(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    model = empty_model(BASE, get_backend("cpu")).eval().requires_grad_(False)
    setattr(model, place, Own())
    model.backend.prepare(model, random_weights(BASE))
    assert model.at_once is None


def test_threads_that_share_a_model_count_together() -> None:
    model, found = make_model(BASE, random_weights(BASE, torch.bfloat16)), []
    alone, _ = logits_of(model)

    def live() -> None:
        with torch.inference_mode():
            found.extend(logits_of(model)[0] for _ in range(20))

    before, callers = model.layers_finished, [threading.Thread(target=live) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert model.layers_finished - before == 60 * len(STEPS) * BASE.num_layers
    assert len(found) == 60 and all(torch.equal(x, y) for one in found for x, y in zip(one, alone, strict=True))
