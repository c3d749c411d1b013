"""A small Qwen2 in a folder of its own: key-value heads that are shared, biases, a window, and the embedded model's tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from brigade.checkpoint.load import EMBEDDED

VOCABULARY, HIDDEN, LAYERS, HEADS, KV_HEADS, INNER = 4096, 64, 2, 8, 2, 128
CONFIG: dict[str, Any] = {
    "model_type": "qwen2", "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "intermediate_size": INNER, "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6, "rope_theta": 10000, "use_sliding_window": True, "sliding_window": 40, "max_window_layers": 1,
    "hidden_act": "silu", "torch_dtype": "bfloat16", "tie_word_embeddings": False, "eos_token_id": 3,
}  # fmt: skip


def write_folder(folder: Path, tied: bool = False) -> Path:
    generator = torch.Generator().manual_seed(11)

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).bfloat16()

    tensors = {"model.embed_tokens.weight": tensor(VOCABULARY, HIDDEN), "model.norm.weight": tensor(HIDDEN)}
    if not tied:
        tensors["lm_head.weight"] = tensor(VOCABULARY, HIDDEN)
    kv = HIDDEN // HEADS * KV_HEADS
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        for name, rows in (("q", HIDDEN), ("k", kv), ("v", kv)):
            tensors |= {
                f"{at}.self_attn.{name}_proj.weight": tensor(rows, HIDDEN),
                f"{at}.self_attn.{name}_proj.bias": tensor(rows),
            }
        tensors |= {
            f"{at}.self_attn.o_proj.weight": tensor(HIDDEN, HIDDEN), f"{at}.mlp.gate_proj.weight": tensor(INNER, HIDDEN),
            f"{at}.mlp.up_proj.weight": tensor(INNER, HIDDEN), f"{at}.mlp.down_proj.weight": tensor(HIDDEN, INNER),
            f"{at}.input_layernorm.weight": tensor(HIDDEN), f"{at}.post_attention_layernorm.weight": tensor(HIDDEN),
        }  # fmt: skip
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**CONFIG, "tie_word_embeddings": tied}))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(EMBEDDED / name, folder / name)
    return folder
