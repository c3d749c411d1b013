"""Memory is planned before it is taken, and what does not fit is refused with the numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from brigade.engine.config import EngineConfig
from brigade.engine.memory_plan import Needs, plan_memory
from brigade.errors import ConfigError
from tests.engine.fakes import CONFIG

POSITION_BYTES = 2 * CONFIG.num_layers * CONFIG.num_kv_heads * CONFIG.head_dim * 4  # keys and values in float32
NEEDS = Needs(weights=40_000, tables=3_000, activations=200_000, shared=10_000, position_bytes=POSITION_BYTES)


def plan(available: int = 1 << 30, **settings):
    return plan_memory(CONFIG, EngineConfig(**settings), NEEDS, available)


def test_the_parts_add_up() -> None:
    found = plan()
    assert found.weights + found.tables + found.activations + found.shared + found.kv + found.left == found.available
    assert found.room == found.available - NEEDS.beside_cache == found.kv + found.left
    assert found.block_bytes == 2 * 2 * 2 * 8 * 64 * 4  # k and v, layers, kv heads, head dim, positions, bytes


def test_no_more_blocks_than_the_batch_can_use() -> None:
    assert plan(max_batch_size=4, max_step_tokens=16).num_blocks == 4 * 256 // 64


def test_given_sizes_are_kept() -> None:
    assert plan(kv_blocks=5).num_blocks == 5
    assert plan(kv_memory=plan().block_bytes * 3 + 1).num_blocks == 3


def test_what_is_there_is_said() -> None:
    said = str(plan())
    assert "rotary tables 2.9 KiB" in said and "memory shared by ranks 9.8 KiB" in said
    alone = plan_memory(CONFIG, EngineConfig(), replace(NEEDS, tables=0, shared=0), 1 << 30)
    assert "rotary" not in str(alone) and "shared" not in str(alone)


@pytest.mark.parametrize(
    ("available", "settings", "words"),
    [
        (1000, {}, "are free"),
        (1 << 30, {"kv_memory": 10}, "below one block"),
        (1 << 24, {"kv_blocks": 10_000}, "lower kv_blocks"),
        (1 << 30, {"max_model_len": 10_000}, "made for 256 positions"),
    ],
)
def test_what_does_not_fit_is_refused(available, settings, words) -> None:
    with pytest.raises(ConfigError, match=words):
        plan(available, **settings)
