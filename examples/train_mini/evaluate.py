"""Held-out bits per byte, beside xz: `python -m examples.train_mini.evaluate [--json FILE]`.

Every held-out file is scored with windows of the full context that overlap by half, so each token but the first has at least
half a window before it. xz is given the same files, one by one and all in one stream.
"""

from __future__ import annotations

import argparse
import lzma
import math
from pathlib import Path

import torch

from brigade import LLM
from brigade.checkpoint.load import EMBEDDED
from brigade.engine.sampling.logprobs import log_softmax
from brigade.errors import ConfigError
from brigade.output_files import check_outputs, write_json
from examples.train_mini.data import SourceFile, read_sources


def file_bits(llm: LLM, file: SourceFile, end: int) -> float:
    """Bits to say this file's tokens and its end, starting after an end of text."""
    ids = [end, *llm.tokenizer.encode(file.text), end]
    window = llm.plan.max_model_len - 1
    stride, bits, scored = window // 2, 0.0, 1
    for start in range(0, len(ids), stride):
        part = ids[start : start + window + 1]
        if start + len(part) <= scored:
            break
        logprobs = log_softmax(llm.logits([part[:-1]])[0])
        targets = torch.tensor(part[1:])
        own = logprobs.gather(1, targets.unsqueeze(1)).squeeze(1)[scored - start - 1 :]
        bits -= float(own.double().sum()) / math.log(2)
        scored = start + len(part)
    assert scored == len(ids)
    return bits


def xz_bytes(data: bytes) -> int:
    return len(lzma.compress(data, preset=9))


def evaluate(llm: LLM) -> dict[str, float]:
    _, held_out = read_sources()
    (end,) = llm.tokenizer.eos_ids
    size = sum(len(file.text.encode()) for file in held_out)
    bits = sum(file_bits(llm, file, end) for file in held_out)
    apart = sum(xz_bytes(file.text.encode()) for file in held_out)
    together = xz_bytes(b"".join(file.text.encode() for file in held_out))
    return {
        "held_out_files": len(held_out),
        "held_out_bytes": size,
        "bits_per_byte": bits / size,
        "xz_per_file_bits_per_byte": 8 * apart / size,
        "xz_one_stream_bits_per_byte": 8 * together / size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a model folder (default: the embedded one)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    try:
        check_outputs({"--json": args.json}, [args.model or EMBEDDED])
    except ConfigError as error:
        parser.error(str(error))
    found = evaluate(LLM(args.model, kv_blocks=32, prefix_cache=False, max_step_tokens=1024, prefill_chunk=1024))
    for name, value in found.items():
        print(f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}")
    if args.json is not None:
        write_json(args.json, found)


if __name__ == "__main__":
    main()
