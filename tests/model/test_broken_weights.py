"""A model with a NaN or an infinity in it: a request that meets it has logits that are not finite, and no other request's bits
change, not even those of requests that use the same cache blocks later."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from brigade.backends.cpu.library import choose_path
from brigade.backends.kv_cache import KVCache
from brigade.backends.registry import get_backend
from brigade.batch import Batch, Span, Wanted
from brigade.config import ModelConfig, MoEConfig, RopeConfig
from brigade.model.gpt_model import GPTModel
from tests.backends.cpu.paths import FOUND, PATHS
from tests.breadth import one_in
from tests.engine.fakes import FORMATS

BASE = ModelConfig(
    "llama", vocab_size=71, num_layers=2, hidden_size=40, num_heads=4, num_kv_heads=2, head_dim=10, ffn_size=48, max_positions=128,
    rope=RopeConfig(rotary_dim=10),
)  # fmt: skip
PLAIN = {"norm": "layernorm", "gated": False, "qkv_bias": True, "out_bias": True, "mlp_bias": True}
FAMILIES = {
    "llama": BASE,
    "gpt2": replace(BASE, **PLAIN, activation="gelu_tanh", position="learned", rope=None),
    "opt": replace(BASE, **PLAIN, activation="relu", position="learned", rope=None),
    "gpt_neox": replace(BASE, **PLAIN, activation="gelu", parallel_residual=True),
    "mistral": replace(BASE, sliding_window=9),
    "gemma2": replace(
        BASE, activation="gelu_tanh", sandwich_norm=True, norm_weight_offset=1.0, attention_softcap=50.0, logit_softcap=30.0,
        sliding_window=9, windowed_layers=(0,), embedding_scale=6.3,
    ),
    "olmoe": replace(BASE, qk_norm="full", qkv_clip=1.5, moe=MoEConfig(4, 2, 24)),
}  # fmt: skip
ARITHMETIC = [("reference", "", "float32", "none")]
for found in PATHS:
    path, marks = (found.values[0], found.marks) if hasattr(found, "values") else (found, ())
    formats = FORMATS if path == FOUND[0] else FORMATS[::2]  # each operation by itself: tests/backends/test_broken_numbers.py
    ARITHMETIC += [pytest.param(("cpu", path, *kind), marks=marks) for kind in formats]
NAN, INF = float("nan"), float("inf")
BROKEN_ID = 66


@pytest.fixture(params=ARITHMETIC, ids=lambda kind: "-".join(kind))
def arithmetic(request: pytest.FixtureRequest):
    if request.param[0] == "cpu":
        choose_path(request.param[1])
    yield request.param
    if request.param[0] == "cpu":
        choose_path("")


def build(config: ModelConfig, arithmetic: tuple[str, str, str, str], spoil) -> GPTModel:
    name, _, dtype, quant = arithmetic
    backend = get_backend(name)
    if quant != "none":
        backend.quantise(quant)
    model = GPTModel(config, backend).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        wide = parameter.ndim > 1
        parameter.normal_(0.0 if wide else 1.0, 1.5 / parameter.shape[-1] ** 0.5 if wide else 0.1, generator=generator)
    spoil(dict(model.named_parameters()))
    model.to(getattr(torch, dtype) if name == "cpu" else torch.float32)
    backend.prepare(model)
    return model


def new_cache(model: GPTModel, arithmetic) -> KVCache:
    c = model.config
    width, dtype = model.backend.cache_dim(c.head_dim), getattr(torch, arithmetic[2])
    return KVCache.allocate(c.num_layers, 12, c.num_kv_heads, 32, width, dtype)


def ids(count: int, first: int) -> list[int]:
    return [(7 * i + first) % BROKEN_ID for i in range(count)]


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.view(torch.int32), b.view(torch.int32))


@pytest.mark.parametrize(("family", "broken"), one_in(2, FAMILIES, [NAN, INF]))
def test_a_broken_word_ends_with_the_requests_that_use_it(family: str, broken: float, arithmetic) -> None:
    def spoil(parameters) -> None:
        parameters["embedding.word"][BROKEN_ID, 7] = broken

    model = build(FAMILIES[family], arithmetic, spoil)

    def alone(tokens: list[int]) -> torch.Tensor:
        return model(Batch((Span(tokens, 0, [0, 1, 2], Wanted.ALL),)), new_cache(model, arithmetic))

    common, other = ids(45, 1), ids(70, 3)
    clean, neighbour = alone([*common, *ids(10, 5)]), alone(other)
    assert clean.isfinite().all() and neighbour.isfinite().all()
    cache = new_cache(model, arithmetic)

    # One prompt has the word at position 45: in the second block, and in the attention tile of the first.
    victim = [*common, BROKEN_ID, *ids(5, 2)]
    found = model(Batch((Span(victim, 0, [4, 7], Wanted.ALL), Span(other, 0, [9, 3, 5], Wanted.ALL))), cache)
    assert same(found[:45], clean[:45]), "rows before the word"
    assert not found[45:51].isfinite().all(dim=-1).any(), "the word's row and those that see it"
    assert same(found[51:], neighbour), "another request of the same step"

    # A token more for both: the victim goes on saying so.
    more = model(Batch((Span([8], 51, [4, 7]), Span([4], 70, [9, 3, 5]))), cache)
    assert not more[0].isfinite().all() and same(more[1], alone([*other, 4])[-1])

    # The first block holds the common beginning alone, and is shared with a request that goes on without the word.
    after = [*common[32:], *ids(10, 5)]
    shared = model(Batch((Span(after, 32, [4, 1], Wanted.ALL),)), cache)
    assert same(shared, clean[32:]), "the prefix cache"

    # The victim's own block is given to somebody else, at once and token by token.
    assert same(model(Batch((Span(other, 0, [7, 1, 4], Wanted.ALL),)), cache), neighbour)
    model(Batch((Span(victim, 0, [4, 7]),)), cache)
    for at in range(5):
        found = model(Batch((Span(other[at : at + 1], at, [7]),)), cache)
        assert same(found[0], neighbour[at])


@pytest.mark.parametrize(("family", "broken"), one_in(2, ["llama", "gpt2", "opt", "gemma2"], [NAN, INF]))
def test_a_broken_weight_shows_in_every_request(family: str, broken: float, arithmetic) -> None:
    """Also the head's, where the last softcap makes a number of any logit. ReLU of minus infinity is rightly 0: NaN alone there."""
    config = replace(FAMILIES[family], num_layers=1, windowed_layers=())
    names = [name for name, _ in GPTModel(config, get_backend("reference")).named_parameters() if not name.startswith("embedding")]
    assert any("head" in name for name in names) and len(names) >= 8
    if family == "opt" and broken == INF:
        names = [name for name in names if "mlp.up" not in name]
    for name in names:

        def spoil(parameters, name=name) -> None:
            parameters[name].view(-1)[3] = broken

        model = build(config, arithmetic, spoil)
        found = model(Batch((Span(ids(6, 1), 0, [2], Wanted.ALL), Span(ids(1, 9), 0, [3]))), new_cache(model, arithmetic))
        assert not found.isfinite().all(dim=-1).any(), name
