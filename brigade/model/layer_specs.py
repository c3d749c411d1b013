"""Specs of a layer and of the whole network: which norm, which attention, which MLP, and whose kernels."""

from __future__ import annotations

from brigade.backends.base import Backend
from brigade.config import ModelConfig
from brigade.model.attention import Attention
from brigade.model.embedding import Embedding
from brigade.model.linear import ColumnLinear, RowLinear
from brigade.model.moe_specs import mlp_spec, moe_spec
from brigade.model.norm import Norm
from brigade.model.spec import ModuleSpec
from brigade.model.transformer_layer import TransformerLayer


def norm_spec(config: ModelConfig, size: int) -> ModuleSpec:
    return ModuleSpec(Norm, {"kind": config.norm, "size": size, "eps": config.norm_eps, "offset": config.norm_weight_offset})


def attention_spec(config: ModelConfig) -> ModuleSpec:
    q_size, kv_size = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    parts = {
        "qkv": ModuleSpec(
            ColumnLinear,
            {"size_in": config.hidden_size, "size_out": q_size + 2 * kv_size, "bias": config.qkv_bias},
        ),
        "out": ModuleSpec(RowLinear, {"size_in": q_size, "size_out": config.hidden_size, "bias": config.out_bias}),
    }
    if config.qk_norm != "none":
        whole = config.qk_norm == "full"
        parts["q_norm"] = norm_spec(config, q_size if whole else config.head_dim)
        parts["k_norm"] = norm_spec(config, kv_size if whole else config.head_dim)
    return ModuleSpec(Attention, {"config": config}, parts)


def gpt_layer_spec(config: ModelConfig, backend: Backend, layer: int) -> ModuleSpec:
    """The spec of one layer, as this family arranges it and as this backend wants it built."""
    parts = {
        "attention_norm": norm_spec(config, config.hidden_size),
        "attention": attention_spec(config),
        "mlp_norm": norm_spec(config, config.hidden_size),
        "mlp": moe_spec(config) if config.is_moe(layer) else mlp_spec(config, config.ffn_size),
    }
    if config.sandwich_norm:
        parts["attention_post_norm"] = norm_spec(config, config.hidden_size)
        parts["mlp_post_norm"] = norm_spec(config, config.hidden_size)
    return backend.adapt_layer(ModuleSpec(TransformerLayer, {"config": config}, parts), layer)


def embedding_spec(config: ModelConfig) -> ModuleSpec:
    parts = {}
    if config.embedding_size is not None:
        parts["project"] = ModuleSpec(
            ColumnLinear, {"size_in": config.embedding_size, "size_out": config.hidden_size, "bias": False}
        )
    return ModuleSpec(Embedding, {"config": config}, parts)


def gpt_spec(config: ModelConfig, backend: Backend) -> dict[str, ModuleSpec]:
    """Every part of the network by the name its weights carry; `layers.N` in order."""
    parts = {"embedding": embedding_spec(config)}
    parts |= {f"layers.{i}": gpt_layer_spec(config, backend, i) for i in range(config.num_layers)}
    if config.final_norm:
        parts["final_norm"] = norm_spec(config, config.hidden_size)
    width = config.hidden_size
    if config.embedding_size is not None:
        parts["project_out"] = ModuleSpec(
            ColumnLinear, {"size_in": config.hidden_size, "size_out": config.embedding_size, "bias": False}
        )
        width = config.embedding_size
    if not config.tied_head:
        parts["head"] = ModuleSpec(ColumnLinear, {"size_in": width, "size_out": config.vocab_size, "bias": config.head_bias})
    return parts
