"""OPT: positions from row 2 on, ReLU; its 350M member norms after the sum and has narrower word vectors."""

from __future__ import annotations

from brigade.checkpoint.families.family import Family
from brigade.checkpoint.families.settings import Settings
from brigade.checkpoint.operations import NameMap, joined, take, weight_and_bias
from brigade.config import ModelConfig


def translate(hf: Settings) -> ModelConfig:
    hf.require("enable_bias", True, "all layers have biases here")
    hf.require("layer_norm_elementwise_affine", True, "all norms have weights here")
    hidden, heads, head_dim = hf.heads()
    width, before = hf.count("word_embed_proj_dim", hidden), hf.flag("do_layer_norm_before", True)
    return ModelConfig(
        family="opt", vocab_size=hf.count("vocab_size"), num_layers=hf.count("num_hidden_layers"), hidden_size=hidden,
        num_heads=heads, num_kv_heads=heads, head_dim=head_dim, ffn_size=hf.count("ffn_dim"),
        max_positions=hf.count("max_position_embeddings"), norm="layernorm", norm_eps=1e-5,
        activation=hf.activation("activation_function"), gated=False, position="learned", position_offset=2, qkv_bias=True,
        out_bias=True, mlp_bias=True, norm_after=not before,
        final_norm=before and not hf.flag("_remove_final_layer_norm", False), embedding_size=None if width == hidden else width,
        tied_head=hf.flag("tie_word_embeddings", True),
    )  # fmt: skip


def names(config: ModelConfig) -> NameMap:
    table = {
        "embedding.word": take("@embed_tokens.weight"),
        "embedding.position": take("@embed_positions.weight"),
    }
    if config.final_norm:
        table |= weight_and_bias("final_norm", take, "@final_layer_norm", True)
    if config.embedding_size is not None:
        table["embedding.project.weight"] = take("@project_in.weight")
        table["project_out.weight"] = take("@project_out.weight")
    if not config.tied_head:
        table["head.weight"] = take("lm_head.weight")
    for i in range(config.num_layers):
        ours, theirs = f"layers.{i}", f"@layers.{i}"
        table |= weight_and_bias(f"{ours}.attention_norm", take, f"{theirs}.self_attn_layer_norm", True)
        for kind in ("weight", "bias"):
            each = (f"{theirs}.self_attn.{x}_proj.{kind}" for x in "qkv")
            table[f"{ours}.attention.qkv.{kind}"] = joined(*each, rows=config.hidden_size)
        table |= weight_and_bias(f"{ours}.attention.out", take, f"{theirs}.self_attn.out_proj", True)
        table |= weight_and_bias(f"{ours}.mlp_norm", take, f"{theirs}.final_layer_norm", True)
        table |= weight_and_bias(f"{ours}.mlp.up", take, f"{theirs}.fc1", True)
        table |= weight_and_bias(f"{ours}.mlp.down", take, f"{theirs}.fc2", True)
    return table


FAMILIES = (Family("opt", ("opt",), translate, names, "model.decoder."),)
