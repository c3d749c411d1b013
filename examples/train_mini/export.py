"""Write a checkpoint as an ordinary Hugging Face folder: `python -m examples.train_mini.export work/mini OUT`."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from brigade.artifact.writer import in_one_step
from brigade.checkpoint.families.common import llama_like_names
from brigade.checkpoint.operations import inverted, with_prefix
from brigade.errors import ConfigError
from brigade.output_files import check_apart
from examples.train_mini.tokenizer import END
from examples.train_mini.train import CONFIG

# A turn is a comment, an answer is what follows it: the only conversation that Python sources know.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ message['content'] }}\n"
    "{% else %}# {{ message['content'] }}\n{% endif %}{% endfor %}"
)


def to_hugging_face(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    table = with_prefix(llama_like_names(CONFIG), "model.")
    return {name: tensor.to(torch.bfloat16).contiguous().clone() for name, tensor in inverted(table, state)}


def export(work: Path, out: Path) -> None:
    """`out` is a folder that is not there yet, or is empty; it appears whole or not at all."""
    check_apart({"OUT": out}, [work])
    state, size = in_one_step(out, lambda folder: _fill(work, folder))
    print(f"{out}: {size} bytes, step {state['step']}")


def _fill(work: Path, out: Path) -> tuple[dict, int]:
    """The checkpoint, and how many bytes were written."""
    state = torch.load(work / "checkpoint.pt", weights_only=True)
    save_file(to_hugging_face(state["model"]), out / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(work / "tokenizer.json", out / "tokenizer.json")
    end = json.loads((out / "tokenizer.json").read_text())["model"]["vocab"][END]
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": CONFIG.vocab_size,
        "hidden_size": CONFIG.hidden_size, "intermediate_size": CONFIG.ffn_size, "num_hidden_layers": CONFIG.num_layers,
        "num_attention_heads": CONFIG.num_heads, "num_key_value_heads": CONFIG.num_kv_heads, "head_dim": CONFIG.head_dim,
        "max_position_embeddings": CONFIG.max_positions, "rms_norm_eps": CONFIG.norm_eps, "rope_theta": 10000.0,
        "hidden_act": "silu", "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False,
        "torch_dtype": "bfloat16", "bos_token_id": end, "eos_token_id": end,
    }  # fmt: skip
    settings = {"eos_token": END, "bos_token": END, "add_bos_token": False, "chat_template": CHAT_TEMPLATE,
                "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": CONFIG.max_positions}  # fmt: skip
    for name, content in {
        "config.json": config,
        "tokenizer_config.json": settings,
        "generation_config.json": {"bos_token_id": end, "eos_token_id": end},
    }.items():
        (out / name).write_text(json.dumps(content, indent=1) + "\n")
    return state, sum(file.stat().st_size for file in out.iterdir())


if __name__ == "__main__":
    try:
        export(Path(sys.argv[1]), Path(sys.argv[2]))
    except ConfigError as error:
        sys.exit(f"error: {error}")
