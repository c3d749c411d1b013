"""Which degrees a model can have, and how its layers are cut into stages."""

from __future__ import annotations

from dataclasses import replace

import pytest

from brigade.checkpoint.load import open_model
from brigade.config import ModelConfig, MoEConfig, RopeConfig
from brigade.errors import ConfigError
from brigade.mesh import Mesh
from brigade.parallel.degrees import cut_by_cost, head_cost, layer_costs, make_mesh, tp_degrees

CONFIG = ModelConfig(
    "tiny", vocab_size=151, num_layers=6, hidden_size=32, num_heads=8, num_kv_heads=8, head_dim=8, ffn_size=64, max_positions=128,
    rope=RopeConfig(rotary_dim=8),
)  # fmt: skip


def test_the_leader_is_the_first_rank_of_the_last_stage() -> None:
    mesh = make_mesh(CONFIG, 2, 3)
    assert [mesh.stage(rank) for rank in range(6)] == [2, 2, 1, 1, 0, 0]
    assert [mesh.tp_rank(rank) for rank in range(6)] == [0, 1] * 3
    assert all(mesh.rank(mesh.stage(rank), mesh.tp_rank(rank)) == rank for rank in range(6))
    assert list(mesh.group(3)) == [2, 3]
    leader, first = mesh.part(0, 6), mesh.part(4, 6)
    assert leader.is_last and not leader.is_first and first.is_first and first.first_layer == 0
    assert [layer for stage in range(3) for layer in mesh.part(mesh.rank(stage, 1), 6).layers] == list(range(6))


@pytest.mark.parametrize(
    "change, tp, said",
    [
        ({}, 3, "tp is 3, but sums over ranks are a tree of 8 blocks; this model takes tp 1, 2, 4 or 8"),
        ({}, 16, "tp is 16, but sums over ranks are a tree of 8 blocks; this model takes tp 1, 2, 4 or 8"),
        (
            {"ffn_size": 60}, 8,
            "tp is 8, but mlp.down sums 60 numbers, which can be cut into 4 equal blocks only; this model takes tp 1, 2 or 4",
        ),
        ({"num_heads": 4, "num_kv_heads": 4}, 8, "tp is 8, but the model has 4 heads; this model takes tp 1, 2 or 4"),
        ({"num_heads": 24, "num_kv_heads": 6}, 4, "tp is 4, but the model has 6 key-value heads; this model takes tp 1 or 2"),
        (
            {"qk_norm": "full", "family": "olmoe"}, 2,
            "tp is 2, but olmoe normalises queries and keys over all heads at once; this model takes tp 1",
        ),
        ({"vocab_size": 6}, 8, "tp is 8, but the vocabulary has 6 entries; this model takes tp 1, 2 or 4"),
        (
            {"moe": MoEConfig(4, 2, expert_ffn_size=36)}, 8,
            "tp is 8, but experts.down sums 36 numbers, which can be cut into 4 equal blocks only; this model takes tp 1, 2 or 4",
        ),
        (
            {"moe": MoEConfig(4, 2, 64, shared_ffn_size=18)}, 4,
            "tp is 4, but shared.down sums 18 numbers, which can be cut into 2 equal blocks only; this model takes tp 1 or 2",
        ),
    ],
)  # fmt: skip
def test_a_degree_that_cannot_be_is_refused_with_those_that_can(change: dict, tp: int, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make_mesh(replace(CONFIG, **change), tp)
    assert str(refused.value) == said


def test_key_value_heads_are_replicated_where_ranks_are_more() -> None:
    config = replace(CONFIG, num_kv_heads=2)
    assert tp_degrees(config) == [1, 2, 4, 8]
    mesh = make_mesh(config, 8)
    assert [mesh.part(rank, 6).kv_heads(config) for rank in range(8)] == [(0, 1)] * 4 + [(1, 2)] * 4


@pytest.mark.parametrize(
    "pp, by_hand, said",
    [
        (7, None, "pp is 7, but the model has 6 layers; each stage needs one: choose 1 to 6"),
        (0, None, "pp is 0; it must be an integer above 0"),
        (2, [3], "pp_layers is 3, for 1 stages, but pp is 2; give one number for each stage"),
        (2, [4, 3], "pp_layers is 4,3; it must be numbers above 0 whose sum is the model's 6 layers"),
        (2, [6, 0], "pp_layers is 6,0; it must be numbers above 0 whose sum is the model's 6 layers"),
    ],
)
def test_stages_that_cannot_be_are_refused(pp: int, by_hand: list[int] | None, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make_mesh(CONFIG, 1, pp, by_hand)
    assert str(refused.value) == said


def test_stages_are_cut_by_cost_and_the_head_counts() -> None:
    assert cut_by_cost([1] * 6, 0, 2) == ((0, 3), (3, 6))
    assert cut_by_cost([1] * 6, 2, 2) == ((0, 4), (4, 6))
    assert cut_by_cost([5, 1, 1, 1, 1, 1], 0, 2) == ((0, 1), (1, 6))
    assert cut_by_cost([1] * 7, 100, 3) == ((0, 3), (3, 6), (6, 7))
    config = open_model("gpt-345m").config
    first, last = make_mesh(config, 1, 2).stages
    assert first == (0, 13) and last == (13, 24)
    costs, head = layer_costs(config), head_cost(config)
    assert head == 50304 * 1024 // 2 and costs == [12 * 1024 * 1024] * 24
    assert make_mesh(config, 1, 2, [10, 14]).stages == ((0, 10), (10, 24))


def test_every_cut_is_the_best_of_all() -> None:
    from itertools import combinations

    costs, head = [3, 1, 4, 1, 5, 9, 2, 6], 7
    for pp in range(1, 9):

        def dearest(borders: tuple[int, ...]) -> int:
            ends = (0, *borders, len(costs))
            sums = [sum(costs[a:b]) for a, b in zip(ends, ends[1:], strict=False)]
            return max([*sums[:-1], sums[-1] + head])

        best = min(dearest(borders) for borders in combinations(range(1, len(costs)), pp - 1))
        stages = cut_by_cost(costs, head, pp)
        assert len(stages) == pp and dearest(tuple(first for first, _ in stages[1:])) == best


def test_vocabularies_are_cut_on_whole_panels_where_they_are_large() -> None:
    for size in (151, 512, 50257, 50304, 131072):
        for tp in (2, 4, 8):
            mesh = Mesh(tp, 1, ((0, 6),))
            runs = [mesh.part(rank, 6).vocabulary(size) for rank in range(tp)]
            assert runs[0][0] == 0 and runs[-1][1] == size and all(a < b for a, b in runs)
            assert all(one[1] == two[0] for one, two in zip(runs, runs[1:], strict=False))
            if size >= 64 * tp:
                assert all(first % 32 == 0 for first, _ in runs)
