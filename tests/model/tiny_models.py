"""Tiny random models of every family, made by transformers itself and saved as their users would save them."""

from __future__ import annotations

from pathlib import Path

import torch

COMMON = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
GROUPED = {"num_key_value_heads": 2, "intermediate_size": 48}
MOE = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.5, 2.0, 3.0, 4.0],
}  # fmt: skip

# name: (configuration class, settings beside the common ones)
FAMILIES: dict[str, tuple[str, dict]] = {
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128}),
    "gpt_neox": ("GPTNeoXConfig", {"intermediate_size": 64, "rotary_pct": 0.5}),
    "gpt_neox_serial": ("GPTNeoXConfig", {"intermediate_size": 64, "use_parallel_residual": False}),
    "opt": ("OPTConfig", {"ffn_dim": 64, "word_embed_proj_dim": 32}),
    "opt_post_norm": ("OPTConfig", {"ffn_dim": 64, "word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "llama": ("LlamaConfig", {**GROUPED}),
    "llama_biased": ("LlamaConfig", {**GROUPED, "attention_bias": True, "mlp_bias": True, "head_dim": 16}),
    "llama3": ("LlamaConfig", {**GROUPED, "rope_parameters": LLAMA3_ROPE}),
    "llama_linear": ("LlamaConfig", {**GROUPED, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
    "mistral": ("MistralConfig", {**GROUPED, "sliding_window": 9}),
    "qwen2": ("Qwen2Config", {**GROUPED}),
    "qwen2_window": ("Qwen2Config", {**GROUPED, "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}),
    "qwen3": ("Qwen3Config", {**GROUPED, "head_dim": 16}),
    "gemma2": ("Gemma2Config", {**GROUPED, "head_dim": 16, "sliding_window": 9, "query_pre_attn_scalar": 12}),
    "gemma3": (
        "Gemma3TextConfig",
        {**GROUPED, "head_dim": 16, "sliding_window": 9, "query_pre_attn_scalar": 12,
         "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]},
    ),
    "phi3": ("Phi3Config", {**GROUPED, "sliding_window": None}),
    "phi3_longrope": ("Phi3Config", {**GROUPED, "original_max_position_embeddings": 32, "rope_parameters": LONGROPE}),
    "mixtral": ("MixtralConfig", {**GROUPED, "num_local_experts": 6, "num_experts_per_tok": 2}),
    "qwen3_moe": ("Qwen3MoeConfig", {**GROUPED, **MOE, "head_dim": 16, "norm_topk_prob": True, "mlp_only_layers": [1]}),
    "qwen3_moe_raw": ("Qwen3MoeConfig", {**GROUPED, **MOE, "head_dim": 16, "norm_topk_prob": False}),
    "olmoe": ("OlmoeConfig", {**GROUPED, "num_experts": 6, "num_experts_per_tok": 2, "clip_qkv": 1.5}),
}  # fmt: skip


def make_tiny(name: str, seed: int, tied: bool | None = None, **changes):
    """A transformers model with weights large enough that every part of the network shows in the logits."""
    import transformers

    class_name, settings = FAMILIES[name]
    settings = {**COMMON, **settings, **changes}
    if tied is not None:
        settings["tie_word_embeddings"] = tied
    config = getattr(transformers, class_name)(**settings)
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.normal_(0.0, 0.6 / parameter.shape[-1] ** 0.5 if parameter.shape[-1] > 8 else 0.3)
    return model


def save_tiny(name: str, seed: int, folder: Path, tied: bool | None = None, shard: str | None = None, **changes):
    model = make_tiny(name, seed, tied, **changes)
    model.save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))
    return model
