"""Train the embedded model: `python -m examples.train_mini.train --out work/mini --steps 1200`.

Data order, initial weights and schedule are functions of the seed; an interrupted run goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from brigade.backends.training import TrainingBackend
from brigade.config import ModelConfig, RopeConfig
from brigade.model.gpt_model import GPTModel
from brigade.output_files import write_file, write_json
from brigade.training.step import TrainingConfig, initialise, make_optimizer, train_step
from examples.train_mini.data import fingerprint, read_sources
from examples.train_mini.tokenizer import END, VOCABULARY, train_tokenizer

CONFIG = ModelConfig(
    family="llama", vocab_size=VOCABULARY, num_layers=7, hidden_size=256, num_heads=8, num_kv_heads=4, head_dim=32,
    ffn_size=656, max_positions=1024, norm_eps=1e-5, rope=RopeConfig(theta=10000.0, rotary_dim=32), tied_head=True,
)  # fmt: skip
TOKENS_PER_STEP = 8192
LONG_SHARE = 0.15  # the last share of the steps sees the full context


def token_stream(seed: int, out: Path) -> np.ndarray:
    """All training files in one shuffled row of ids, each ended by the end-of-text id."""
    train, held_out = read_sources()
    tokenizer = train_tokenizer(file.text for file in train)
    write_file(out / "tokenizer.json", tokenizer.to_str(pretty=True))
    end = tokenizer.token_to_id(END)
    order = np.random.default_rng(seed).permutation(len(train))
    encoded = tokenizer.encode_batch([train[i].text for i in order])
    ids = np.concatenate([np.array([*encoding.ids, end], dtype=np.int32) for encoding in encoded])
    facts = {
        "train_files": len(train), "train_bytes": sum(len(f.text.encode()) for f in train),
        "train_fingerprint": fingerprint(train), "held_out_files": len(held_out),
        "held_out_bytes": sum(len(f.text.encode()) for f in held_out), "held_out_fingerprint": fingerprint(held_out),
        "train_tokens": int(ids.size), "seed": seed,
    }  # fmt: skip
    write_json(out / "data.json", facts)
    return ids


def batch_of(ids: np.ndarray, step: int, seed: int, length: int) -> torch.Tensor:
    """The step's windows, drawn by (seed, step) alone."""
    starts = np.random.default_rng((seed, step)).integers(0, ids.size - length - 1, TOKENS_PER_STEP // length)
    return torch.from_numpy(np.stack([ids[s : s + length + 1] for s in starts]).astype(np.int64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--product-dtype", choices=["float32", "bfloat16"], default="bfloat16")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    ids = token_stream(args.seed, args.out)
    config = TrainingConfig(steps=args.steps)
    model = GPTModel(CONFIG, TrainingBackend(product_dtype=getattr(torch, args.product_dtype)))
    initialise(model, args.seed)
    optimizer = make_optimizer(model, config)
    print(f"{model.num_parameters} parameters, {ids.size} tokens, {args.steps} steps of {TOKENS_PER_STEP}", flush=True)
    checkpoint, losses, first = args.out / "checkpoint.pt", [], 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        losses, first = state["losses"], state["step"]
    begun = time.monotonic()
    for step in range(first, args.steps):
        length = 1024 if step >= args.steps * (1 - LONG_SHARE) else 256
        losses.append(train_step(model, optimizer, batch_of(ids, step, args.seed, length), step, config))
        if step % 20 == 0:
            print(f"step {step} loss {losses[-1]:.4f} {time.monotonic() - begun:.0f} s", flush=True)
        if (step + 1) % 200 == 0 or step + 1 == args.steps:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses, "step": step + 1}
            torch.save(state, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)
            write_json(args.out / "losses.json", [round(loss, 4) for loss in losses])


if __name__ == "__main__":
    main()
