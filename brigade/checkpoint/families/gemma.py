"""Gemma 2 and 3 (text): norms of 1 + w on both sides of each sublayer, scaled word vectors, windows between full layers."""

from __future__ import annotations

from brigade.checkpoint.families.common import llama_like, llama_like_names
from brigade.checkpoint.families.registry import Family, register_family
from brigade.checkpoint.families.settings import Settings
from brigade.checkpoint.sources import NameMap
from brigade.config import ModelConfig

NORMS = {
    "attention_norm": "input_layernorm",
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}


def _gemma(family: str, hf: Settings, **changes) -> ModelConfig:
    hf.require("use_bidirectional_attention", False, "attention is causal here")
    bias = hf("attention_bias", False)
    return llama_like(
        family, hf, norm_weight_offset=1.0, sandwich_norm=True, embedding_scale=hf("hidden_size") ** 0.5,
        attention_scale=hf("query_pre_attn_scalar", 256) ** -0.5, attention_softcap=hf("attn_logit_softcapping", None),
        logit_softcap=hf("final_logit_softcapping", None), tied_head=hf("tie_word_embeddings", True), qkv_bias=bias,
        out_bias=bias, sliding_window=hf("sliding_window", 4096), **changes,
    )  # fmt: skip


def gemma2(hf: Settings) -> ModelConfig:
    layers = hf("num_hidden_layers")
    return _gemma("gemma2", hf, windowed_layers=hf.windowed_layers(layers) or tuple(range(0, layers, 2)))


def gemma3(hf: Settings) -> ModelConfig:
    layers, head_dim = hf("num_hidden_layers"), hf.head_dim()
    every = hf("sliding_window_pattern", hf("_sliding_window_pattern", 6))
    slides = hf.windowed_layers(layers) or tuple(i for i in range(layers) if (i + 1) % every)
    if hf("rope_parameters", None) is not None:
        local = hf.rope(head_dim, "sliding_attention")
    else:
        local = Settings({"rope_theta": hf("rope_local_base_freq", 10000.0)}).rope(head_dim)
    return _gemma(
        "gemma3_text", hf, qk_norm="head", windowed_layers=slides, rope_local=local,
        rope=hf.rope(head_dim, "full_attention", theta=1_000_000.0),
    )  # fmt: skip


def names(config: ModelConfig) -> NameMap:
    return llama_like_names(config, NORMS)


register_family(Family("gemma2", ("gemma2",), gemma2, names))
register_family(Family("gemma3_text", ("gemma3_text",), gemma3, names))
