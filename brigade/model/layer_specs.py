"""Specs of a layer and of the whole network: which norm, which attention, which MLP, and whose kernels."""

from __future__ import annotations

from brigade.backends.base import Backend
from brigade.config import ModelConfig
from brigade.mesh import Cut, Part
from brigade.model.attention import Attention
from brigade.model.embedding import Embedding
from brigade.model.linear import ColumnLinear, RowLinear
from brigade.model.moe_specs import mlp_spec, moe_spec
from brigade.model.norm import Norm
from brigade.model.spec import ModuleSpec
from brigade.model.transformer_layer import TransformerLayer


def norm_spec(config: ModelConfig, size: int) -> ModuleSpec:
    return ModuleSpec(Norm, {"kind": config.norm, "size": size, "eps": config.norm_eps, "offset": config.norm_weight_offset})


def head_cuts(config: ModelConfig, part: Part) -> tuple[Cut | None, Cut | None]:
    """The rows of `qkv` (query, key and value heads) and the columns of `out` that a rank holds."""
    if part.tp == 1:
        return None, None
    dim, q_size, kv_size = config.head_dim, config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    queries = part.share(q_size)
    first, last = (head * dim for head in part.kv_heads(config))
    keys, values = (q_size + first, q_size + last), (q_size + kv_size + first, q_size + kv_size + last)
    return Cut(-2, (queries, keys, values)), Cut(-1, (queries,))


def attention_spec(config: ModelConfig, part: Part) -> ModuleSpec:
    q_size, kv_size = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    rows, columns = head_cuts(config, part)
    qkv = {"size_in": config.hidden_size, "size_out": q_size + 2 * kv_size, "bias": config.qkv_bias, "cut": rows}
    out = {"size_in": q_size, "size_out": config.hidden_size, "bias": config.out_bias, "cut": columns, "share": part.tp}
    parts = {"qkv": ModuleSpec(ColumnLinear, qkv), "out": ModuleSpec(RowLinear, out)}
    if config.qk_norm != "none":
        whole = config.qk_norm == "full"
        parts["q_norm"] = norm_spec(config, q_size if whole else config.head_dim)
        parts["k_norm"] = norm_spec(config, kv_size if whole else config.head_dim)
    return ModuleSpec(Attention, {"config": part.config(config)}, parts)


def gpt_layer_spec(config: ModelConfig, backend: Backend, layer: int, part: Part | None = None) -> ModuleSpec:
    """The spec of one layer, as this family arranges it and as this backend wants it built; `part`: of a rank that holds a
    share."""
    part = Part.whole(config) if part is None else part
    parts = {
        "attention_norm": norm_spec(config, config.hidden_size),
        "attention": attention_spec(config, part),
        "mlp_norm": norm_spec(config, config.hidden_size),
        "mlp": moe_spec(config, part) if config.is_moe(layer) else mlp_spec(config, config.ffn_size, part),
    }
    if config.sandwich_norm:
        parts["attention_post_norm"] = norm_spec(config, config.hidden_size)
        parts["mlp_post_norm"] = norm_spec(config, config.hidden_size)
    return backend.adapt_layer(ModuleSpec(TransformerLayer, {"config": config}, parts), layer)


def embedding_spec(config: ModelConfig, part: Part) -> ModuleSpec:
    parts = {}
    if config.embedding_size is not None and part.is_first:
        parts["project"] = ModuleSpec(
            ColumnLinear, {"size_in": config.embedding_size, "size_out": config.hidden_size, "bias": False}
        )
    return ModuleSpec(Embedding, {"config": config, "part": part}, parts)


def gpt_spec(config: ModelConfig, backend: Backend, part: Part | None = None) -> dict[str, ModuleSpec]:
    """Every part of the network that a rank holds, by the name its weights carry; `layers.N` in order."""
    part = Part.whole(config) if part is None else part
    parts = {}
    if part.is_first or (part.is_last and config.tied_head):
        parts["embedding"] = embedding_spec(config, part)
    parts |= {f"layers.{i}": gpt_layer_spec(config, backend, i, part) for i in part.layers}
    if not part.is_last:
        return parts
    if config.final_norm:
        parts["final_norm"] = norm_spec(config, config.hidden_size)
    width = config.hidden_size
    if config.embedding_size is not None:
        parts["project_out"] = ModuleSpec(
            ColumnLinear, {"size_in": config.hidden_size, "size_out": config.embedding_size, "bias": False}
        )
        width = config.embedding_size
    if not config.tied_head:
        cut = None if part.tp == 1 else Cut(-2, (part.vocabulary(config.vocab_size),))
        head = {"size_in": width, "size_out": config.vocab_size, "bias": config.head_bias, "cut": cut}
        parts["head"] = ModuleSpec(ColumnLinear, head)
    return parts
