"""GPT-NeoX and Pythia: parallel residual, partial rotary positions, q, k and v stored head by head."""

from __future__ import annotations

from brigade.checkpoint.families.registry import Family, register_family
from brigade.checkpoint.families.settings import Settings
from brigade.checkpoint.sources import NameMap, per_head_qkv, take, weight_and_bias
from brigade.config import ModelConfig


def translate(hf: Settings) -> ModelConfig:
    hidden, heads, bias = hf("hidden_size"), hf("num_attention_heads"), hf("attention_bias", True)
    rope = hf.rope(hidden // heads, theta=hf("rotary_emb_base", 10000.0), partial=hf("rotary_pct", 0.25))
    return ModelConfig(
        family="gpt_neox", vocab_size=hf("vocab_size"), num_layers=hf("num_hidden_layers"), hidden_size=hidden,
        num_heads=heads, num_kv_heads=heads, head_dim=hidden // heads, ffn_size=hf("intermediate_size"),
        max_positions=hf("max_position_embeddings"), norm="layernorm", norm_eps=hf("layer_norm_eps", 1e-5),
        activation=hf.activation("hidden_act"), gated=False, rope=rope, qkv_bias=bias, out_bias=bias, mlp_bias=True,
        parallel_residual=hf("use_parallel_residual", True), tied_head=hf("tie_word_embeddings", False),
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


register_family(Family("gpt_neox", ("gpt_neox",), translate, names, "gpt_neox."))
