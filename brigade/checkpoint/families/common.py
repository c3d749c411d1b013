"""The settings and names that most families share: RMSNorm, RoPE, gated MLP, three projections."""

from __future__ import annotations

from typing import Any

from brigade.checkpoint.families.rope_settings import read_rope
from brigade.checkpoint.families.settings import Settings
from brigade.checkpoint.operations import NameMap, joined, stacked, take
from brigade.config import ModelConfig


def llama_like(family: str, hf: Settings, **changes: Any) -> ModelConfig:
    """A Llama-shaped configuration; `changes` are what the family does otherwise."""
    head_dim = hf.head_dim()
    settings: dict[str, Any] = {
        "family": family,
        "vocab_size": hf.count("vocab_size"),
        "num_layers": hf.count("num_hidden_layers"),
        "hidden_size": hf.count("hidden_size"),
        "num_heads": hf.count("num_attention_heads"),
        "num_kv_heads": hf.count("num_key_value_heads", hf.count("num_attention_heads")),
        "head_dim": head_dim,
        "ffn_size": hf.count("intermediate_size"),
        "max_positions": hf.count("max_position_embeddings"),
        "norm_eps": hf.number("rms_norm_eps", 1e-6),
        "activation": hf.activation("hidden_act", "hidden_activation"),
        "tied_head": hf.flag("tie_word_embeddings", False),
    }
    if "rope" not in changes:
        settings["rope"] = read_rope(hf, head_dim)
    return ModelConfig(**settings | changes)


def qkv_rows(config: ModelConfig) -> tuple[int, int, int]:
    """Of the three projections that are joined as one."""
    keys = config.num_kv_heads * config.head_dim
    return config.num_heads * config.head_dim, keys, keys


def llama_like_names(config: ModelConfig, norms: dict[str, str] | None = None) -> NameMap:
    """`norms`: our norm names to theirs, where they differ from Llama's two."""
    norms = norms or {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
    names: NameMap = {"embedding.word": take("@embed_tokens.weight"), "final_norm.weight": take("@norm.weight")}
    if not config.tied_head:
        names["head.weight"] = take("lm_head.weight")
    for i in range(config.num_layers):
        ours, theirs = f"layers.{i}", f"@layers.{i}"
        names |= {f"{ours}.{norm}.weight": take(f"{theirs}.{source}.weight") for norm, source in norms.items()}
        for kind, wanted in (("weight", True), ("bias", config.qkv_bias)):
            if wanted:
                names[f"{ours}.attention.qkv.{kind}"] = joined(
                    *(f"{theirs}.self_attn.{x}_proj.{kind}" for x in "qkv"), rows=qkv_rows(config)
                )
        names[f"{ours}.attention.out.weight"] = take(f"{theirs}.self_attn.o_proj.weight")
        if config.out_bias:
            names[f"{ours}.attention.out.bias"] = take(f"{theirs}.self_attn.o_proj.bias")
        if config.qk_norm != "none":
            names[f"{ours}.attention.q_norm.weight"] = take(f"{theirs}.self_attn.q_norm.weight")
            names[f"{ours}.attention.k_norm.weight"] = take(f"{theirs}.self_attn.k_norm.weight")
        if not config.is_moe(i):
            for kind in ("weight", "bias") if config.mlp_bias else ("weight",):
                gate_and_up = (f"{theirs}.mlp.{x}_proj.{kind}" for x in ("gate", "up"))
                names[f"{ours}.mlp.up.{kind}"] = joined(*gate_and_up, rows=config.ffn_size)
                names[f"{ours}.mlp.down.{kind}"] = take(f"{theirs}.mlp.down_proj.{kind}")
    return names


def expert_names(config: ModelConfig, block: str, gate: str, up: str, down: str) -> NameMap:
    """Routed experts stored one matrix each, under `block` of every layer that has them."""
    names: NameMap = {}
    assert config.moe is not None
    for i in filter(config.is_moe, range(config.num_layers)):
        theirs = f"@layers.{i}.{block}"
        each = [f"{theirs}.experts.{e}" for e in range(config.moe.num_experts)]
        names[f"layers.{i}.mlp.router.weight"] = take(f"{theirs}.gate.weight")
        width = config.moe.expert_ffn_size
        names[f"layers.{i}.mlp.experts.up"] = stacked([joined(f"{e}.{gate}.weight", f"{e}.{up}.weight", rows=width) for e in each])
        names[f"layers.{i}.mlp.experts.down"] = stacked([f"{e}.{down}.weight" for e in each])
    return names
