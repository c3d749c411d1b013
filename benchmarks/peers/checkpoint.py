"""Our random-weight model as the folder that peers read: Hugging Face GPT-2, float32, with a tokenizer that names every id."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from brigade.backends.registry import get_backend
from brigade.checkpoint.families.gpt2 import names
from brigade.checkpoint.load import open_model
from brigade.checkpoint.operations import inverted, with_prefix
from brigade.checkpoint.random_weights import random_parameter
from brigade.config import ModelConfig
from brigade.errors import ConfigError
from brigade.model.gpt_model import empty_model

END = "<|endoftext|>"
# What GPT-2 is; a recipe that differs has no such folder.
SHAPE = {
    "norm": "layernorm", "activation": "gelu_tanh", "gated": False, "position": "learned", "tied_head": True,
    "qkv_bias": True, "out_bias": True, "mlp_bias": True,
}  # fmt: skip


def gpt2_config(recipe: str) -> ModelConfig:
    config = open_model(recipe).config
    wrong = [name for name, value in SHAPE.items() if getattr(config, name) != value]
    if wrong or config.num_kv_heads != config.num_heads or config.moe is not None:
        raise ConfigError(
            f"{recipe} is no GPT-2 in its {wrong[0] if wrong else 'heads or experts'}; peers take gpt-345m or its like"
        )
    return config


def write_checkpoint(config: ModelConfig, seed: int, folder: Path) -> None:
    """A folder with this name is whole: it gets it last."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        save_file(_tensors(config, seed), part / "model.safetensors", metadata={"format": "pt"})
        _write(part / "config.json", _settings(config))
        _write_tokenizer(config, part)
        part.rename(folder)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"cannot write {folder}: {error}; make room, or choose another --work") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _tensors(config: ModelConfig, seed: int) -> dict[str, torch.Tensor]:
    """Under the peers' names, matrices turned to [in, out] as GPT-2 stores them."""
    table = with_prefix(names(config), "transformer.")
    shapes = {name: tuple(p.shape) for name, p in empty_model(config, get_backend("reference")).named_parameters()}
    drawn = {ours: random_parameter(seed, ours, shape) for ours, shape in shapes.items()}
    return {name: tensor.contiguous() for name, tensor in inverted(table, drawn)}


def _settings(config: ModelConfig) -> dict[str, Any]:
    end = config.vocab_size - 1
    return {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": config.vocab_size,
        "n_embd": config.hidden_size, "n_layer": config.num_layers, "n_head": config.num_heads, "n_inner": config.ffn_size,
        "n_positions": config.max_positions, "n_ctx": config.max_positions, "activation_function": "gelu_new",
        "layer_norm_epsilon": config.norm_eps, "tie_word_embeddings": True, "scale_attn_weights": True,
        "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "bos_token_id": end, "eos_token_id": end,
        "torch_dtype": "float32",
    }  # fmt: skip


def _write_tokenizer(config: ModelConfig, folder: Path) -> None:
    """Bytes, names without meaning up to the size of the vocabulary, and an end: peers want a string for every id."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[: config.vocab_size - 1]
    words = [*alphabet, *(f"<{number}>" for number in range(len(alphabet), config.vocab_size - 1)), END]
    tokenizer = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END, "eos_token": END, "unk_token": END,
         "model_max_length": config.max_positions},
    )  # fmt: skip


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
