"""`benchmarks/capacity.py` on two small layouts: ranks take the memory that was predicted."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.capacity import run_case
from brigade.backends.cpu.library import find_kernels

RECIPE = (
    "num_layers: 8\nhidden_size: 1024\nnum_heads: 16\nnum_kv_heads: 16\nhead_dim: 64\nffn_size: 4096\nvocab_size: 8000\n"
    "max_positions: 1024\ngated: false\nnorm: layernorm\nactivation: gelu_tanh\nrope: {rotary_dim: 64}\ntied_head: true\n"
)


@pytest.mark.slow
@pytest.mark.skipif(find_kernels() is None, reason="the C++ kernels are not built: no compiler on this machine")
@pytest.mark.parametrize(("quant", "tp", "pp"), [("none", 1, 1), ("int8", 2, 1)])
def test_ranks_take_what_was_predicted(quant: str, tp: int, pp: int, tmp_path: Path) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(RECIPE)
    found = run_case(str(recipe), quant, tp, pp)
    assert len(found) == tp * pp
    for rank in found:
        sizes = {name: f"{size / 2**20:.1f} MiB" for name, size in rank.items()}
        assert abs(rank["measured"] / rank["predicted"] - 1) < 0.08, sizes
