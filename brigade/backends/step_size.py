"""How much memory a step takes beside weights and cache, and how many bytes ranks exchange in it; known before anything is loaded.

What is counted is alive at once in the layer that takes most. `model` has shapes, and need have no weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from brigade.mesh import vocabulary_borders

if TYPE_CHECKING:
    from brigade.backends.base import LargestStep
    from brigade.config import ModelConfig

KEY_TILE, QUERY_TILE, DECODE_TILE = 64, 32, 4  # of the reference's attention: positions of an item, and rows of it
MOST_POSITIONS = 4096  # of a context that is counted: the reference takes more for a longer one, once a request is that long


def torch_step_bytes(model: Any, step: LargestStep, blocks: int) -> int:
    """Of operations that torch computes in float32 one by one; sums over K are a tree of `blocks`."""
    config, tp = model.held.config(model.config), model.held.tp
    partial = blocks // tp * 3 // 2 * config.hidden_size  # of a row: the sums of all blocks that are here, then those of pairs
    most = max(_layer(config, config.is_moe(i), tp, partial, step) for i in model.held.layers)
    return 4 * max(step.tokens * 2 * config.hidden_size + most, logits_numbers(model, step.requests))


def logits_numbers(model: Any, requests: int) -> int:
    """Of a row for each request: this rank's share of the vocabulary, once as it comes and once for who samples. The leader of
    several ranks gathers those of all."""
    if not model.held.is_last:
        return 0
    borders, rank = vocabulary_borders(model.config.vocab_size, model.held.tp), model.held.tp_rank
    gathered = 2 * model.config.vocab_size if model.held.tp > 1 and rank == 0 else 0
    return requests * (2 * (borders[rank + 1] - borders[rank]) + gathered)


def experts_numbers(config: ModelConfig, tokens: int, working: int, products: int) -> int:
    """Of routed experts: the inner rows of all of them live at once. Beside them either one expert works, in the worst case on all
    tokens, or there are all their products, and the rows of every slot. `working` and `products` are numbers of a token."""
    assert config.moe is not None
    slots, hidden = config.moe.top_k, config.hidden_size
    return tokens * (4 * hidden + slots * config.moe.expert_ffn_size + max(hidden + working, products + slots * hidden))


def summed_products(model: Any) -> Iterator[tuple[str, int, int]]:
    """The products that ranks sum together: a matrix (of experts the first), its rows for one token, and its outputs."""
    for name, module in model.named_modules():
        kind = type(module).__name__
        if kind == "RowLinear" and module.share > 1:
            yield name, 1, module.weight.shape[0]
        elif kind == "ExpertWeights" and module.share > 1:
            yield f"{name}.down.0", model.config.moe.top_k, module.down.shape[1]


def _layer(config: ModelConfig, has_experts: bool, tp: int, partial: int, step: LargestStep) -> int:
    gate = 2 if config.gated else 1
    tokens, hidden = step.tokens, config.hidden_size

    def dense(width: int) -> int:
        return tokens * (hidden + gate * width + max(4 * width, width + partial))

    if not has_experts:
        return max(_attention(config, partial, step), dense(config.ffn_size))
    assert config.moe is not None
    products = partial + config.moe.top_k * hidden * (2 if tp > 1 else 1)
    routed = experts_numbers(config, tokens, (gate + 4) * config.moe.expert_ffn_size, products)
    return max(_attention(config, partial, step), routed, tokens * hidden + dense(config.moe.shared_ffn_size))


def _attention(config: ModelConfig, partial: int, step: LargestStep) -> int:
    """Rows of queries, keys and values, and either the items of attention or the sums of what follows it. An item is a tile of
    queries and a tile of keys: queries, scores, weights and what comes of them; keys are gathered, and widened to float32."""
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    tiles = -(-min(step.positions, MOST_POSITIONS) // KEY_TILE)

    def items(count: int, rows: int) -> int:
        return count * tiles * (config.num_heads * rows * 2 * (config.head_dim + KEY_TILE) + KEY_TILE * kv * 3 // 2)

    chunks, decode = items(-(-step.tokens // QUERY_TILE), QUERY_TILE), items(min(step.requests, step.tokens), DECODE_TILE)
    return step.tokens * (2 * config.hidden_size + 4 * q + 3 * kv) + max(chunks, decode, step.tokens * partial)
