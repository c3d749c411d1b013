"""Which degrees a model can have, and which layers each stage gets. All of it is settled before a rank starts."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

from brigade.backends.base import G
from brigade.backends.exact_math import tree_width
from brigade.config import ModelConfig
from brigade.errors import ConfigError
from brigade.mesh import Mesh, Run


def make_mesh(config: ModelConfig, tp: int = 1, pp: int = 1, pp_layers: Sequence[int] | None = None) -> Mesh:
    """The mesh, or which degrees this model can have instead."""
    for name, value in (("tp", tp), ("pp", pp)):
        if type(value) is not int or value < 1:
            raise ConfigError(f"{name} is {value!r}; it must be an integer above 0")
    _check_tp(config, tp)
    return Mesh(tp, pp, _stages(config, pp, pp_layers))


def row_parallel(config: ModelConfig) -> dict[str, int]:
    """The summed axis of every kind of row-parallel matrix."""
    found = {"attention.out": config.num_heads * config.head_dim}
    if any(not config.is_moe(i) for i in range(config.num_layers)):
        found["mlp.down"] = config.ffn_size
    if config.moe is not None:
        found["experts.down"] = config.moe.expert_ffn_size
        if config.moe.shared_ffn_size:
            found["shared.down"] = config.moe.shared_ffn_size
    return found


def obstacle(config: ModelConfig, tp: int) -> str | None:
    """Why so many ranks cannot share a layer; None where they can."""
    if tp == 1:
        return None
    if tp > G or G % tp:
        return f"sums over ranks are a tree of {G} blocks"
    for name, k in row_parallel(config).items():
        blocks = tree_width(k, G)
        if blocks < tp:
            return f"{name} sums {k} numbers, which can be cut into {blocks} equal blocks only"
    if config.num_heads % tp:
        return f"the model has {config.num_heads} heads"
    if config.num_kv_heads % tp and tp % config.num_kv_heads:
        return f"the model has {config.num_kv_heads} key-value heads"
    if config.qk_norm == "full":
        return f"{config.family} normalises queries and keys over all heads at once"
    if config.vocab_size < tp:
        return f"the vocabulary has {config.vocab_size} entries"
    return None


def tp_degrees(config: ModelConfig) -> list[int]:
    return [tp for tp in range(1, G + 1) if obstacle(config, tp) is None]


def _check_tp(config: ModelConfig, tp: int) -> None:
    why = obstacle(config, tp)
    if why is not None:
        raise ConfigError(f"tp is {tp}, but {why}; this model takes tp {_listed(tp_degrees(config))}")


def _stages(config: ModelConfig, pp: int, by_hand: Sequence[int] | None) -> tuple[Run, ...]:
    layers = config.num_layers
    if pp > layers:
        raise ConfigError(f"pp is {pp}, but the model has {layers} layers; each stage needs one: choose 1 to {layers}")
    if by_hand is None:
        return cut_by_cost(layer_costs(config), head_cost(config), pp)
    counts = list(by_hand)
    shown = ",".join(map(str, counts))
    if len(counts) != pp:
        raise ConfigError(f"pp_layers is {shown}, for {len(counts)} stages, but pp is {pp}; give one number for each stage")
    if any(type(count) is not int or count < 1 for count in counts) or sum(counts) != layers:
        raise ConfigError(f"pp_layers is {shown}; it must be numbers above 0 whose sum is the model's {layers} layers")
    borders = [sum(counts[:i]) for i in range(pp + 1)]
    return tuple(pairwise(borders))


def layer_costs(config: ModelConfig) -> list[int]:
    """The weights that a token meets in each layer: of experts only those that are chosen."""
    gate = 3 if config.gated else 2
    attention = config.hidden_size * config.head_dim * 2 * (config.num_heads + config.num_kv_heads)
    costs = []
    for i in range(config.num_layers):
        width = config.ffn_size
        if config.is_moe(i):
            assert config.moe is not None
            width = config.moe.top_k * config.moe.expert_ffn_size + config.moe.shared_ffn_size
        costs.append(attention + gate * config.hidden_size * width)
    return costs


def head_cost(config: ModelConfig) -> int:
    """Of the last stage alone, and by half: every token that is decoded meets the head, but of a prompt only the last one. The word
    table costs the first stage nothing: its rows are looked up."""
    return config.vocab_size * (config.embedding_size or config.hidden_size) // 2


def cut_by_cost(costs: Sequence[int], head: int, pp: int) -> tuple[Run, ...]:
    """The cut whose dearest stage is the cheapest; of several such, the most even one, by the squares of its stages."""
    sums = [0, *accumulate(costs)]

    def stage(first: int, last: int) -> int:
        return sums[last] - sums[first] + (head if last == len(costs) else 0)

    dearest, _ = _best_cut(len(costs), pp, stage, max)
    forbidden = sum(costs) + head + 1  # whose square is above any sum of squares
    even = _best_cut(len(costs), pp, lambda a, b: (stage(a, b) if stage(a, b) <= dearest else forbidden) ** 2, operator.add)
    return tuple(pairwise((0, *even[1])))


def _best_cut(
    count: int, pp: int, price: Callable[[int, int], int], join: Callable[[int, int], int]
) -> tuple[int, tuple[int, ...]]:  # fmt: skip
    """The lowest price of a cut of 0 .. count - 1 into `pp` runs, and where its runs end; prices of runs are joined by `join`."""
    best = {last: (price(0, last), (last,)) for last in range(1, count + 1)}  # of one run
    for k in range(2, pp + 1):
        best = {
            last: min((join(best[first][0], price(first, last)), (*best[first][1], last)) for first in range(k - 1, last))
            for last in range(k, count + 1)
        }
    return best[count]


def _listed(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{', '.join(map(str, numbers[:-1]))} or {numbers[-1]}"
