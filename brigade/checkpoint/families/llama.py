"""Llama 2 and 3, Mistral, Qwen2 and Qwen3: one shape, told apart by biases, windows and head norms."""

from __future__ import annotations

from brigade.checkpoint.families.common import llama_like, llama_like_names
from brigade.checkpoint.families.family import Family
from brigade.checkpoint.families.settings import Settings
from brigade.config import ModelConfig


def llama(hf: Settings) -> ModelConfig:
    bias = hf.flag("attention_bias", False)
    return llama_like("llama", hf, qkv_bias=bias, out_bias=bias, mlp_bias=hf.flag("mlp_bias", False))


def mistral(hf: Settings) -> ModelConfig:
    return llama_like("mistral", hf, sliding_window=hf.count("sliding_window", None))


def qwen_window(hf: Settings) -> dict:
    """Qwen slides in its upper layers, and only where it is switched on."""
    if not hf.flag("use_sliding_window", False):
        return {}
    layers = hf.count("num_hidden_layers")
    slides = hf.windowed_layers(layers) or tuple(range(hf.count("max_window_layers", 0, least=0), layers))
    return {"sliding_window": hf.count("sliding_window"), "windowed_layers": slides} if slides else {}


def qwen2(hf: Settings) -> ModelConfig:
    return llama_like("qwen2", hf, qkv_bias=True, **qwen_window(hf))


def qwen3(hf: Settings) -> ModelConfig:
    bias = hf.flag("attention_bias", False)
    return llama_like("qwen3", hf, qkv_bias=bias, out_bias=bias, qk_norm="head", **qwen_window(hf))


FAMILIES = tuple(
    Family(name, (name,), translate, llama_like_names)
    for name, translate in {"llama": llama, "mistral": mistral, "qwen2": qwen2, "qwen3": qwen3}.items()
)
