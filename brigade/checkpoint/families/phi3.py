"""Phi-3: Llama's shape with q, k, v and gate, up stored as one matrix each, and stretched rotary positions."""

from __future__ import annotations

from brigade.checkpoint.families.common import llama_like, llama_like_names
from brigade.checkpoint.families.family import Family
from brigade.checkpoint.families.settings import Settings
from brigade.checkpoint.operations import NameMap, take
from brigade.config import ModelConfig


def translate(hf: Settings) -> ModelConfig:
    return llama_like("phi3", hf, norm_eps=hf.number("rms_norm_eps", 1e-5), sliding_window=hf.count("sliding_window", None))


def names(config: ModelConfig) -> NameMap:
    table = llama_like_names(config)
    for i in range(config.num_layers):
        table[f"layers.{i}.attention.qkv.weight"] = take(f"@layers.{i}.self_attn.qkv_proj.weight")
        table[f"layers.{i}.mlp.up.weight"] = take(f"@layers.{i}.mlp.gate_up_proj.weight")
    return table


FAMILIES = (Family("phi3", ("phi3",), translate, names),)
