"""A small model with the embedded model's tokenizer, in which one word poisons the request that has it, and nobody else's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from brigade import LLM, SamplingParams, register_parameter
from brigade.checkpoint.load import EMBEDDED
from brigade.engine.sampling import Sampler
from brigade.engine.sampling.sampler import InverseCDF

POISON = 4000  # a word so large that the first norm finds no number for it
BAD_SEED = 666  # the sampling rule raises for it
VOCABULARY, HIDDEN, LAYERS, HEADS, INNER = 4096, 64, 4, 8, 128
ROOM: dict[str, Any] = {"kv_blocks": 24, "block_size": 32, "max_batch_size": 6, "max_step_tokens": 64, "prefill_chunk": 48}


def write_model(folder: Path, vocabulary: int = VOCABULARY, seed: int = 5) -> Path:
    """A GPT-NeoX. A vocabulary of another size has no tokenizer."""
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) * 1.7 / columns**0.5

    def vector(size: int, middle: float = 0.0) -> torch.Tensor:
        return middle + 0.1 * torch.randn(size, generator=generator)

    tensors = {"gpt_neox.embed_in.weight": matrix(vocabulary, HIDDEN), "embed_out.weight": matrix(vocabulary, HIDDEN)}
    tensors["gpt_neox.embed_in.weight"][POISON % vocabulary] = 3e38
    norms = ["gpt_neox.final_layer_norm"]
    for layer in range(LAYERS):
        ours = f"gpt_neox.layers.{layer}"
        norms += [f"{ours}.input_layernorm", f"{ours}.post_attention_layernorm"]
        for name, rows, columns in (
            ("attention.query_key_value", 3 * HIDDEN, HIDDEN),
            ("attention.dense", HIDDEN, HIDDEN),
            ("mlp.dense_h_to_4h", INNER, HIDDEN),
            ("mlp.dense_4h_to_h", HIDDEN, INNER),
        ):
            tensors |= {f"{ours}.{name}.weight": matrix(rows, columns), f"{ours}.{name}.bias": vector(rows)}
    for norm in norms:
        tensors |= {f"{norm}.weight": vector(HIDDEN, 1.0), f"{norm}.bias": vector(HIDDEN)}
    folder.mkdir(exist_ok=True)
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, folder / "model.safetensors")
    config = {
        "model_type": "gpt_neox", "vocab_size": vocabulary, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "intermediate_size": INNER, "max_position_embeddings": 512, "rotary_pct": 0.5,
        "hidden_act": "gelu", "torch_dtype": "bfloat16", "bos_token_id": 0, "eos_token_id": 0,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    if vocabulary == VOCABULARY:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(EMBEDDED / name, folder / name)
    return folder


class Rule:
    """The default rule, which raises for one seed. It lives in the leader alone: the other ranks never see it."""

    def choose(self, weights_RV, rows):
        if any(row.seed == BAD_SEED for row in rows):
            raise LookupError("a rule that fails")
        return InverseCDF().choose(weights_RV, rows)


def _fail(logits_V, value, row):
    if len(row.output_token_ids) == value:
        raise ArithmeticError("a parameter that fails")
    return logits_V


register_parameter("fails_at_output", lambda value: None if isinstance(value, int) else "it must be an integer", _fail)


def load(folder: Path, **settings: Any) -> LLM:
    return LLM(folder, sampler=Sampler(Rule()), **ROOM | settings)


def ids(count: int, seed: int = 0) -> list[int]:
    return torch.randint(1, POISON, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def greedy(tokens: int = 8, **more: Any) -> SamplingParams:
    return SamplingParams(**{"max_tokens": tokens, "temperature": 0.0, "ignore_eos": True, "seed": 0} | more)


def said(sample: Any) -> tuple:
    return sample.token_ids, sample.text, sample.logprobs, sample.finish_reason, sample.stop_reason, sample.seed, sample.error


def heard(output: Any) -> tuple:
    """All that an answer says; not when."""
    return output.prompt, output.prompt_token_ids, output.prompt_logprobs, [said(sample) for sample in output.samples]
