"""Mixtral, Qwen3-MoE and OLMoE: Llama's attention over routed experts."""

from __future__ import annotations

from brigade.checkpoint.families.common import expert_names, llama_like, llama_like_names
from brigade.checkpoint.families.family import Family
from brigade.checkpoint.families.llama import qwen_window
from brigade.checkpoint.families.rope_settings import read_rope
from brigade.checkpoint.families.settings import Settings
from brigade.checkpoint.operations import NameMap
from brigade.config import ModelConfig, MoEConfig


def mixtral(hf: Settings) -> ModelConfig:
    moe = MoEConfig(hf.count("num_local_experts"), hf.count("num_experts_per_tok"), hf.count("intermediate_size"), renormalise=True)
    return llama_like(
        "mixtral", hf, moe=moe, sliding_window=hf.count("sliding_window", None), rope=read_rope(hf, hf.head_dim(), theta=1e6)
    )


def mixtral_names(config: ModelConfig) -> NameMap:
    return llama_like_names(config) | expert_names(config, "block_sparse_moe", "w1", "w3", "w2")


def qwen3_moe(hf: Settings) -> ModelConfig:
    layers, step, dense = hf.count("num_hidden_layers"), hf.count("decoder_sparse_step", 1), hf.numbers("mlp_only_layers", ())
    routed = tuple(i for i in range(layers) if i not in dense and (i + 1) % step == 0)
    experts = hf.count("num_experts", None) or hf.count("num_local_experts")
    renormalise = hf.flag("norm_topk_prob", False)
    moe = MoEConfig(experts, hf.count("num_experts_per_tok"), hf.count("moe_intermediate_size"), renormalise, layers=routed)
    bias = hf.flag("attention_bias", False)
    return llama_like("qwen3_moe", hf, moe=moe if routed else None, qk_norm="head", qkv_bias=bias, out_bias=bias, **qwen_window(hf))


def olmoe(hf: Settings) -> ModelConfig:
    experts = hf.count("num_experts", None) or hf.count("num_local_experts")
    moe = MoEConfig(experts, hf.count("num_experts_per_tok"), hf.count("intermediate_size"), hf.flag("norm_topk_prob", False))
    bias = hf.flag("attention_bias", False)
    return llama_like(
        "olmoe", hf, moe=moe, qk_norm="full", qkv_clip=hf.number("clip_qkv", None, above=0), qkv_bias=bias, out_bias=bias,
        norm_eps=hf.number("rms_norm_eps", 1e-5),
    )  # fmt: skip


def names(config: ModelConfig) -> NameMap:
    table = llama_like_names(config)
    return table | expert_names(config, "mlp", "gate_proj", "up_proj", "down_proj") if config.moe else table


FAMILIES = (
    Family("mixtral", ("mixtral",), mixtral, mixtral_names),
    Family("qwen3_moe", ("qwen3_moe",), qwen3_moe, names),
    Family("olmoe", ("olmoe",), olmoe, names),
)
