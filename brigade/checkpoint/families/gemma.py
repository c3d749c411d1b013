"""Gemma 2 and 3 (text): norms of 1 + w on both sides of each sublayer, scaled word vectors, windows between full layers."""

from __future__ import annotations

from brigade.checkpoint.families.common import llama_like, llama_like_names
from brigade.checkpoint.families.family import Family
from brigade.checkpoint.families.rope_settings import read_rope
from brigade.checkpoint.families.settings import Settings
from brigade.checkpoint.operations import NameMap
from brigade.config import ModelConfig

NORMS = {
    "attention_norm": "input_layernorm",
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}


def _gemma(family: str, hf: Settings, **changes) -> ModelConfig:
    hf.require("use_bidirectional_attention", False, "attention is causal here")
    bias = hf.flag("attention_bias", False)
    return llama_like(
        family, hf, norm_weight_offset=1.0, sandwich_norm=True, embedding_scale=hf.count("hidden_size") ** 0.5,
        attention_scale=hf.number("query_pre_attn_scalar", 256, above=0) ** -0.5,
        attention_softcap=hf.number("attn_logit_softcapping", None, above=0),
        logit_softcap=hf.number("final_logit_softcapping", None, above=0), tied_head=hf.flag("tie_word_embeddings", True),
        qkv_bias=bias, out_bias=bias, sliding_window=hf.count("sliding_window", 4096), **changes,
    )  # fmt: skip


def gemma2(hf: Settings) -> ModelConfig:
    layers = hf.count("num_hidden_layers")
    return _gemma("gemma2", hf, windowed_layers=hf.windowed_layers(layers) or tuple(range(0, layers, 2)))


def gemma3(hf: Settings) -> ModelConfig:
    layers, head_dim = hf.count("num_hidden_layers"), hf.head_dim()
    every = hf.count("sliding_window_pattern", None) or hf.count("_sliding_window_pattern", 6)
    slides = hf.windowed_layers(layers) or tuple(i for i in range(layers) if (i + 1) % every)
    if hf("rope_parameters", None) is not None:
        local = read_rope(hf, head_dim, "sliding_attention")
    else:
        local = read_rope(Settings({"rope_theta": hf.number("rope_local_base_freq", 10000.0, above=1)}, hf.file), head_dim)
    return _gemma(
        "gemma3_text", hf, qk_norm="head", windowed_layers=slides, rope_local=local,
        rope=read_rope(hf, head_dim, "full_attention", theta=1_000_000.0),
    )  # fmt: skip


def names(config: ModelConfig) -> NameMap:
    return llama_like_names(config, NORMS)


FAMILIES = (Family("gemma2", ("gemma2",), gemma2, names), Family("gemma3_text", ("gemma3_text",), gemma3, names))
