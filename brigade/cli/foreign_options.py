"""Options of other servers, and what to give to `brigade serve` instead. `docs/coming_from.md` is held to this table by a test."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from brigade.errors import nearest

OPTIONS: dict[str, dict[str, str]] = {
    "vLLM": {
        "--ssl-certfile": "give --tls-cert", "--ssl-keyfile": "give --tls-key", "--allowed-origins": "give --cors",
        "--revision": "write MODEL@REVISION", "--quantization": "give --quant, such as --quant int8",
        "--max-num-seqs": "give --max-batch-size", "--max-num-batched-tokens": "give --max-step-tokens",
        "--gpu-memory-utilization": "give --kv-memory, a size such as 4G", "--no-enable-prefix-caching": "give --no-prefix-cache",
        "--tensor-parallel-size": "give --tp", "--pipeline-parallel-size": "give --pp", "--data-parallel-size": "give --dp",
        "--load-format": "of a recipe, give --random-weights SEED for weights without a checkpoint",
        "--seed": "give seed with each request", "--enable-lora": "merge the adapter into the weights before",
        "--speculative-config": "there is no counterpart; drop it",
        "--trust-remote-code": "a model's own code is never run; drop it, or name code of yours with --import",
        "--disable-log-requests": "give --quiet",
    },
    "llama.cpp": {
        "--ssl-cert-file": "give --tls-cert", "--ssl-key-file": "give --tls-key", "-a": "give --served-model-name",
        "--alias": "give --served-model-name", "-c": "give --max-model-len", "--ctx-size": "give --max-model-len",
        "-np": "give --max-batch-size", "--parallel": "give --max-batch-size", "-t": "give --threads",
        "-C": "give --cpus, a list such as 0-3", "--cpu-mask": "give --cpus, a list such as 0-3", "-b": "give --max-step-tokens",
        "-ub": "give --prefill-chunk", "--no-mmap": "artifacts are mapped; drop it", "--mlock": "artifacts are mapped; drop it",
        "--chat-template-file": "give --chat-template", "--jinja": "templates are always Jinja; drop it",
        "-ctk": "the cache has the type of the model; drop it", "-ctv": "the cache has the type of the model; drop it",
        "--lora": "merge the adapter into the weights before", "--mmproj": "there is no counterpart; drop it",
        "--rpc": "there is no counterpart; drop it", "--metrics": "/metrics is always there; drop it",
    },
    "Megatron": {
        "--tensor-model-parallel-size": "give --tp", "--pipeline-model-parallel-size": "give --pp",
        "--expert-model-parallel-size": "experts are cut by --tp; drop it",
        "--context-parallel-size": "there is no counterpart; drop it", "--load": "give --model FOLDER, a Hugging Face folder",
        "--num-layers": "the model's folder says it; drop it", "--hidden-size": "the model's folder says it; drop it",
        "--num-attention-heads": "the model's folder says it; drop it",
        "--tokenizer-model": "the model's folder has it; drop it", "--tokenizer-type": "the model's folder has it; drop it",
        "--bf16": "give --dtype bfloat16", "--fp16": "give --dtype bfloat16", "--inference-max-requests": "give --max-batch-size",
        "--inference-dynamic-batching-max-requests": "give --max-batch-size",
        "--inference-max-seq-length": "give --max-model-len",
        "--inference-dynamic-batching": "it is the default, --engine dynamic; drop it",
        "--inference-dynamic-batching-buffer-size-gb": "give --kv-memory, a size such as 4G",
        "--inference-dynamic-batching-block-size": "give --block-size",
        "--inference-dynamic-batching-max-tokens": "give --max-step-tokens",
        "--inference-dynamic-batching-prefix-caching": "it is on unless --no-prefix-cache is given; drop it",
        "--enable-chunked-prefill": "it is always on; give --prefill-chunk to choose the size, or drop it",
        "--transformer-impl": "there are no GPU kernels; drop it", "--cuda-graph-impl": "there are no GPU kernels; drop it",
    },
}  # fmt: skip


def options_in(text: str) -> list[str]:
    return re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)


def hints(unknown: Iterable[str], known: Collection[str], is_server: bool) -> list[str]:
    """What to give instead of each argument that is an option, as far as that is known. `known`: the options that there are. A
    remedy that names none of them is the server's."""
    found = []
    for word in unknown:
        if not word.startswith("-"):
            continue
        word = word.partition("=")[0]
        name = word.replace("_", "-") if word.startswith("--") else word
        whose, remedy = next(((whose, options[name]) for whose, options in OPTIONS.items() if name in options), ("", ""))
        named = options_in(remedy)
        if remedy and (all(one in known for one in named) if named else is_server):
            found.append(f"{word} is an option of {whose}: {remedy}")
        elif word.startswith("--") and (near := nearest(name, known)) is not None:
            found.append(f"the nearest to {word} is {near}")
    return found
