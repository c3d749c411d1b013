"""GPT-2: learned positions, LayerNorm, weights stored [in, out]."""

from __future__ import annotations

from brigade.checkpoint.families.family import Family
from brigade.checkpoint.families.settings import Settings
from brigade.checkpoint.operations import NameMap, take, transposed, weight_and_bias
from brigade.config import ModelConfig


def translate(hf: Settings) -> ModelConfig:
    hf.require("scale_attn_weights", True, "attention scores are always scaled here")
    hf.require("scale_attn_by_inverse_layer_idx", False, "scores are not scaled by layer number here")
    hidden, heads, head_dim = hf.heads("n_embd", "n_head")
    return ModelConfig(
        family="gpt2", vocab_size=hf.count("vocab_size"), num_layers=hf.count("n_layer"), hidden_size=hidden, num_heads=heads,
        num_kv_heads=heads, head_dim=head_dim, ffn_size=hf.count("n_inner", 4 * hidden), max_positions=hf.count("n_positions"),
        norm="layernorm", norm_eps=hf.number("layer_norm_epsilon", 1e-5), activation=hf.activation("activation_function"),
        gated=False, position="learned", qkv_bias=True, out_bias=True, mlp_bias=True,
        tied_head=hf.flag("tie_word_embeddings", True),
    )  # fmt: skip


def names(config: ModelConfig) -> NameMap:
    table = {"embedding.word": take("@wte.weight"), "embedding.position": take("@wpe.weight")}
    table |= weight_and_bias("final_norm", take, "@ln_f", True)
    if not config.tied_head:
        table["head.weight"] = take("lm_head.weight")
    for i in range(config.num_layers):
        ours, theirs = f"layers.{i}", f"@h.{i}"
        table |= weight_and_bias(f"{ours}.attention_norm", take, f"{theirs}.ln_1", True)
        table |= weight_and_bias(f"{ours}.attention.qkv", transposed, f"{theirs}.attn.c_attn", True)
        table |= weight_and_bias(f"{ours}.attention.out", transposed, f"{theirs}.attn.c_proj", True)
        table |= weight_and_bias(f"{ours}.mlp_norm", take, f"{theirs}.ln_2", True)
        table |= weight_and_bias(f"{ours}.mlp.up", transposed, f"{theirs}.mlp.c_fc", True)
        table |= weight_and_bias(f"{ours}.mlp.down", transposed, f"{theirs}.mlp.c_proj", True)
    return table


FAMILIES = (Family("gpt2", ("gpt2",), translate, names, "transformer."),)
