"""The floor, against figures worked out by hand; and what a loaded model is said to hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from brigade import LLM
from brigade.bench.floor import decode_step, floor, layer_parameters, prefill_step
from brigade.bench.weights import Weights, weights_of
from brigade.checkpoint.recipes import find_recipe, read_recipe
from brigade.config import ModelConfig, MoEConfig
from brigade.errors import ConfigError

# Two layers. A layer's matrices: qkv 8 x (8 + 2 * 4), out 8 x 8, up 8 x 16, down 16 x 8: 128 + 64 + 128 + 128 = 448 elements.
SMALL = ModelConfig(
    "small", vocab_size=10, num_layers=2, hidden_size=8, num_heads=4, num_kv_heads=2, head_dim=2, ffn_size=16,
    max_positions=64, gated=False, position="none",
)  # fmt: skip
BF16 = Weights(layers=2 * 896, head=2 * 80, row=16, kv_element=2, arithmetic="bfloat16")


def test_a_prefill_by_hand() -> None:
    assert layer_parameters(SMALL) == 896
    step = prefill_step(SMALL, BF16, batch=3, prompt=5)
    assert step.bytes == 1792 + 160 + 15 * 16  # layers, head, a row of the table for each of 15 tokens
    # The first layer's matrices of 15 tokens; of the second, keys and values (8 x 8) of 12, and the whole of the 3 last ones.
    # 15 pairs a prompt in the first layer, 5 in the second, 8 channels, scores and values; the head of 3 rows.
    assert step.operations == 2 * (448 * 15 + 64 * 12 + 448 * 3) + 4 * 8 * (15 + 5) * 3 + 2 * 80 * 3


def test_a_decode_step_by_hand() -> None:
    step = decode_step(SMALL, BF16, batch=3, context=6)
    # Keys and values of the 5 positions before the new one: 2 layers x 2 x (2 heads x 2 channels) x 2 bytes a position.
    assert step.bytes == 1792 + 160 + 3 * 16 + 3 * 5 * 32
    assert step.operations == 2 * 896 * 3 + 4 * 8 * 6 * 3 * 2 + 2 * 80 * 3


def test_a_window_hides_what_lies_before_it() -> None:
    windowed = replace(SMALL, sliding_window=4, windowed_layers=(1,))
    whole, cut = decode_step(SMALL, BF16, 1, 6), decode_step(windowed, BF16, 1, 6)
    assert whole.bytes - cut.bytes == 2 * 16 and whole.operations - cut.operations == 2 * 32
    # The last of 5 queries sees 4 keys instead of 5; were there a layer behind, all would see 1 + 2 + 3 + 4 + 4 instead of 15.
    assert prefill_step(SMALL, BF16, 1, 5).operations - prefill_step(windowed, BF16, 1, 5).operations == 32


def test_experts_that_nobody_is_sent_to_are_not_read() -> None:
    config = replace(SMALL, moe=MoEConfig(num_experts=4, top_k=1, expert_ffn_size=16))
    # A layer: attention 192, router 32, an expert 256; all four are 1024 of 1248 elements.
    assert layer_parameters(config) == 2 * (192 + 32 + 256)
    weights = replace(BF16, layers=2 * 2 * 1248)
    assert decode_step(config, weights, 1, 2).bytes == pytest.approx(2 * 2 * (224 + 256) + 160 + 16 + 32)
    assert prefill_step(config, weights, 1, 60).bytes == pytest.approx(weights.layers + 160 + 60 * 16, rel=1e-6)


def test_narrow_word_vectors_are_projected_for_every_token_and_back_for_the_head() -> None:
    config = replace(SMALL, embedding_size=4)
    assert layer_parameters(config) == 896 + 32
    assert decode_step(config, BF16, 1, 1).operations == 2 * 928 + 4 * 8 * 2 + 2 * (40 + 32)


def test_a_step_takes_the_longer_of_reading_and_computing() -> None:
    found = floor(SMALL, BF16, batch=1, prompt=4, output=3, bandwidth=1e3, rate=1e12)
    assert found.prefill == prefill_step(SMALL, BF16, 1, 4).bytes / 1e3
    assert found.decode == tuple(decode_step(SMALL, BF16, 1, context).bytes / 1e3 for context in (5, 6))
    assert found.total == found.prefill + sum(found.decode) and found.per_token == sum(found.decode) / 2
    found = floor(SMALL, BF16, batch=1, prompt=4, output=1, bandwidth=1e12, rate=1e3)
    assert found.prefill == prefill_step(SMALL, BF16, 1, 4).operations / 1e3
    assert found.decode == () and found.per_token is None


@pytest.mark.parametrize(
    ("arithmetic", "size", "rate", "batch", "seconds"),
    [
        ("bfloat16", 2, 930e9, 1, 0.147),
        ("bfloat16", 2, 930e9, 16, 1.37),
        ("int8", 1, 1600e9, 1, 0.080),
        ("int8", 1, 1600e9, 16, 0.81),
    ],
)
def test_the_floor_of_gpt_345m(arithmetic: str, size: int, rate: float, batch: int, seconds: float) -> None:
    """128 ids in, 8 out at 77 GB/s: the figures that were worked out on paper (0.153, 1.41, 0.083, 0.83), less what the last layer
    need not compute: 3 to 4% of the prefill."""
    path = find_recipe("gpt-345m")
    assert path is not None
    config, _ = read_recipe(path)
    weights = Weights(size * layer_parameters(config), size * 50304 * 1024, 2048, 2, arithmetic)
    assert floor(config, weights, batch, 128, 8, 77e9, rate).total == pytest.approx(seconds, rel=0.02)


def test_what_the_embedded_model_holds() -> None:
    llm = LLM(backend="reference", kv_blocks=4)
    found, element = weights_of(llm), 4  # the reference backend holds and computes float32
    table = llm.model.embedding.word.numel()
    assert found == Weights(
        element * (llm.model.num_parameters - table), element * table, element * 256, torch.bfloat16.itemsize, "float32"
    )
    norms = 256 * (2 * llm.config.num_layers + 1)
    assert found.layers == element * (layer_parameters(llm.config) + norms)


def test_a_backend_may_say_what_it_holds() -> None:
    llm = LLM(kv_blocks=4)
    llm.backend.weight_bytes = lambda model: (1000, 100)
    llm.backend.arithmetic = "int8"
    found = weights_of(llm)
    assert (found.layers, found.head, found.arithmetic) == (1000, 100, "int8")


def test_weights_of_no_bytes_are_refused() -> None:
    with pytest.raises(ConfigError, match="head takes 0 bytes"):
        replace(BF16, head=0)
