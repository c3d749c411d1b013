"""GPT-NeoX and Pythia: parallel residual, partial rotary positions, q, k and v stored head by head."""

from __future__ import annotations

from brigade.checkpoint.families.family import Family
from brigade.checkpoint.families.rope_settings import read_rope
from brigade.checkpoint.families.settings import Settings
from brigade.checkpoint.operations import NameMap, per_head_qkv, take, weight_and_bias
from brigade.config import ModelConfig


def translate(hf: Settings) -> ModelConfig:
    (hidden, heads, head_dim), bias = hf.heads(), hf.flag("attention_bias", True)
    theta, partial = hf.number("rotary_emb_base", 10000.0, above=1), hf.number("rotary_pct", 0.25, above=0)
    rope = read_rope(hf, head_dim, theta=theta, partial=partial)
    return ModelConfig(
        family="gpt_neox", vocab_size=hf.count("vocab_size"), num_layers=hf.count("num_hidden_layers"), hidden_size=hidden,
        num_heads=heads, num_kv_heads=heads, head_dim=head_dim, ffn_size=hf.count("intermediate_size"),
        max_positions=hf.count("max_position_embeddings"), norm="layernorm", norm_eps=hf.number("layer_norm_eps", 1e-5),
        activation=hf.activation("hidden_act"), gated=False, rope=rope, qkv_bias=bias, out_bias=bias, mlp_bias=True,
        parallel_residual=hf.flag("use_parallel_residual", True), tied_head=hf.flag("tie_word_embeddings", False),
    )  # fmt: skip


def names(config: ModelConfig) -> NameMap:
    table = {"embedding.word": take("@embed_in.weight")}
    table |= weight_and_bias("final_norm", take, "@final_layer_norm", True)
    if not config.tied_head:
        table["head.weight"] = take("embed_out.weight")
    for i in range(config.num_layers):
        ours, theirs = f"layers.{i}", f"@layers.{i}"
        table |= weight_and_bias(f"{ours}.attention_norm", take, f"{theirs}.input_layernorm", True)
        table |= weight_and_bias(
            f"{ours}.attention.qkv",
            lambda name: per_head_qkv(name, config.num_heads),
            f"{theirs}.attention.query_key_value",
            config.qkv_bias,
        )
        table |= weight_and_bias(f"{ours}.attention.out", take, f"{theirs}.attention.dense", config.out_bias)
        table |= weight_and_bias(f"{ours}.mlp_norm", take, f"{theirs}.post_attention_layernorm", True)
        table |= weight_and_bias(f"{ours}.mlp.up", take, f"{theirs}.mlp.dense_h_to_4h", True)
        table |= weight_and_bias(f"{ours}.mlp.down", take, f"{theirs}.mlp.dense_4h_to_h", True)
    return table


FAMILIES = (Family("gpt_neox", ("gpt_neox",), translate, names, "gpt_neox."),)
