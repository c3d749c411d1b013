"""Specs of the expert block: routed experts, and a shared one where the family has it."""

from __future__ import annotations

from brigade.config import ModelConfig
from brigade.mesh import Part
from brigade.model.linear import ColumnLinear, RowLinear
from brigade.model.mlp import MLP
from brigade.model.moe import ExpertWeights, MoE
from brigade.model.spec import ModuleSpec


def mlp_spec(config: ModelConfig, ffn_size: int, part: Part) -> ModuleSpec:
    rows, columns = part.inner_cuts(ffn_size, config.gated)
    up = {"size_in": config.hidden_size, "size_out": ffn_size * (2 if config.gated else 1), "bias": config.mlp_bias, "cut": rows}
    down = {"size_in": ffn_size, "size_out": config.hidden_size, "bias": config.mlp_bias, "cut": columns, "share": part.tp}
    return ModuleSpec(
        MLP,
        {"activation": config.activation, "gated": config.gated},
        {"up": ModuleSpec(ColumnLinear, up), "down": ModuleSpec(RowLinear, down)},
    )


def moe_spec(config: ModelConfig, part: Part) -> ModuleSpec:
    """The router and the choice of experts are the same on every rank; each expert is cut like an MLP."""
    moe = config.moe
    assert moe is not None
    parts = {
        "router": ModuleSpec(ColumnLinear, {"size_in": config.hidden_size, "size_out": moe.num_experts, "bias": False}),
        "experts": ModuleSpec(ExpertWeights, {"moe": moe, "hidden_size": config.hidden_size, "gated": config.gated, "part": part}),
    }
    if moe.shared_ffn_size:
        parts["shared"] = mlp_spec(config, moe.shared_ffn_size, part)
    return ModuleSpec(MoE, {"moe": moe, "activation": config.activation, "gated": config.gated}, parts)
