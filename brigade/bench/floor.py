"""The least time a machine can take: every step must read its weights and its keys and values, and compute its products.

A step takes at least the longer of the two. Activations, norms and writes are left out, so this is a bound from below, as long
as the weights come from memory: those of a small model may stay in a cache.
"""

from __future__ import annotations

from dataclasses import dataclass

from brigade.bench.weights import Weights
from brigade.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Cost:
    """What a step must read in bytes, and compute in operations, at least."""

    bytes: float
    operations: float

    def seconds(self, bandwidth: float, rate: float) -> float:
        return max(self.bytes / bandwidth, self.operations / rate)


@dataclass(frozen=True)
class Floor:
    """Seconds of the step that reads the prompts, and of each step after it."""

    prefill: float
    decode: tuple[float, ...]

    @property
    def total(self) -> float:
        return self.prefill + sum(self.decode)

    @property
    def per_token(self) -> float | None:
        """The mean of the steps after the first token; None where there are none."""
        return sum(self.decode) / len(self.decode) if self.decode else None


def floor(config: ModelConfig, weights: Weights, batch: int, prompt: int, output: int, bandwidth: float, rate: float) -> Floor:
    """`batch` prompts of `prompt` tokens, `output` tokens each: the first comes with the prefill."""
    steps = [decode_step(config, weights, batch, prompt + number) for number in range(1, output)]
    first = prefill_step(config, weights, batch, prompt)
    return Floor(first.seconds(bandwidth, rate), tuple(step.seconds(bandwidth, rate) for step in steps))


def prefill_step(config: ModelConfig, weights: Weights, batch: int, prompt: int) -> Cost:
    """All prompts at once. Their keys and values are made here, so none is read from memory. Of the last layer's rows only those
    whose logits are wanted, one of each prompt, need more than keys and values."""
    tokens, last = batch * prompt, config.num_layers - 1
    pairs = batch * (sum(_pairs(config, layer, prompt) for layer in range(last)) + min(config.window(last) or prompt, prompt))
    return Cost(
        _weight_bytes(config, weights, tokens),
        2 * (layer_parameters(config) * tokens - _beyond_keys(config) * (tokens - batch))
        + _attention(config, pairs)
        + _head(config, batch),
    )


def decode_step(config: ModelConfig, weights: Weights, batch: int, context: int) -> Cost:
    """One token each, the last of `context`; it sees itself and what its layers' windows leave of those before it."""
    seen = [min(context, config.window(layer) or context) for layer in range(config.num_layers)]
    kv_bytes = batch * sum(count - 1 for count in seen) * 2 * config.num_kv_heads * config.head_dim * weights.kv_element
    return Cost(
        _weight_bytes(config, weights, batch) + kv_bytes,
        2 * layer_parameters(config) * batch + _attention(config, batch * sum(seen)) + _head(config, batch),
    )


def layer_parameters(config: ModelConfig) -> int:
    """Elements of the matrices that one token goes through, in all layers: of the experts, those it is sent to."""
    attention = config.hidden_size * config.head_dim * (2 * config.num_heads + 2 * config.num_kv_heads)
    widening = 0 if config.embedding_size is None else config.embedding_size * config.hidden_size
    dense = sum(_mlp(config, config.ffn_size) for layer in range(config.num_layers) if not config.is_moe(layer))
    total = config.num_layers * attention + dense + widening
    if config.moe is not None:
        fixed, one = _moe_sizes(config)
        total += _moe_layers(config) * (fixed + config.moe.top_k * one)
    return total


def _beyond_keys(config: ModelConfig) -> int:
    """Elements of the last layer's matrices, as one token goes through them, but for those that make keys and values."""
    inner = _mlp(config, config.ffn_size)
    if config.moe is not None and config.is_moe(config.num_layers - 1):
        fixed, one = _moe_sizes(config)
        inner = fixed + config.moe.top_k * one
    return 2 * config.hidden_size * config.head_dim * config.num_heads + inner


def _mlp(config: ModelConfig, width: int) -> int:
    return config.hidden_size * width * (3 if config.gated else 2)


def _moe_layers(config: ModelConfig) -> int:
    return sum(config.is_moe(layer) for layer in range(config.num_layers))


def _moe_sizes(config: ModelConfig) -> tuple[int, int]:
    """Elements of a layer's router and shared expert, and of one of its experts."""
    moe = config.moe
    assert moe is not None
    return config.hidden_size * moe.num_experts + _mlp(config, moe.shared_ffn_size), _mlp(config, moe.expert_ffn_size)


def _weight_bytes(config: ModelConfig, weights: Weights, tokens: int) -> float:
    return weights.layers * _touched(config, tokens) + weights.head + tokens * weights.row


def _touched(config: ModelConfig, tokens: int) -> float:
    """The share of the layers' weights that a step reads. Experts nobody is sent to are not read: how many are depends on the
    router, so it is what even chances would give."""
    moe = config.moe
    if moe is None:
        return 1.0
    experts = _moe_layers(config) * moe.num_experts * _moe_sizes(config)[1]
    rest = layer_parameters(config) - _moe_layers(config) * moe.top_k * _moe_sizes(config)[1]
    idle = (1 - moe.top_k / moe.num_experts) ** tokens
    return 1 - idle * experts / (experts + rest)


def _pairs(config: ModelConfig, layer: int, prompt: int) -> int:
    """Query and key pairs of one prompt: the causal half, less what lies before the window."""
    window = min(config.window(layer) or prompt, prompt)
    return window * (window + 1) // 2 + (prompt - window) * window


def _attention(config: ModelConfig, pairs: int) -> int:
    """Scores and weighted values: a multiplication and an addition for each channel of each head, twice."""
    return 4 * config.num_heads * config.head_dim * pairs


def _head(config: ModelConfig, rows: int) -> int:
    width = config.embedding_size or config.hidden_size
    narrowing = 0 if config.embedding_size is None else config.embedding_size * config.hidden_size
    return 2 * rows * (config.vocab_size * width + narrowing)
