"""One model in several formats of its weights: `python benchmarks/formats.py [--quants none int8 int4 int4-int8] [--rounds 5]`.

The model has the shape of a small Llama (16 layers, hidden size 2048, 32 heads on 8, MLP 8192, vocabulary 32,000) and random
weights, or is `--model`. All formats are loaded at once, and in every round each of them takes each piece of work once, in turns.
Prints tokens a second (medians), and how many times `none` (16 bits) and `int8` that is (medians of the ratios round by round).
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

from brigade import LLM, SamplingParams
from brigade.checkpoint.recipes import find_recipe
from brigade.errors import ConfigError

LLAMA_1B = """
num_layers: 16
hidden_size: 2048
num_heads: 32
num_kv_heads: 8
head_dim: 64
ffn_size: 8192
vocab_size: 32000
max_positions: 1024
norm: rmsnorm
norm_eps: 1.0e-5
activation: silu
gated: true
position: rope
rope: {theta: 10000.0, rotary_dim: 64}
tied_head: false
dtype: bfloat16
"""
STREAM = 64  # tokens after the first
WORKS = {"prompt of 128": (128, 1), "prompt of 512": (512, 1), "one stream": (16, STREAM + 1)}  # ids in, tokens out


def rate(llm: LLM, prompt: list[int], tokens: int) -> float:
    """Of a prompt its ids a second until the first token; of a stream the tokens a second after the first."""
    begun = time.perf_counter()
    pieces = llm.stream([prompt], SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True))
    times = [time.perf_counter() for _ in pieces]
    return len(prompt) / (times[0] - begun) if tokens == 1 else (tokens - 1) / (times[-1] - times[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a recipe or a folder (default: the small Llama)")
    parser.add_argument("--quants", nargs="+", default=["none", "int8", "int4", "int4-int8"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = args.model
        if model is None:
            model = Path(folder) / "llama-1b.yaml"
            model.write_text(LLAMA_1B)
        seed = None if find_recipe(str(model)) is None else 0
        llms = {
            quant: LLM(model, random_weights=seed, dtype="bfloat16", quant=None if quant == "none" else quant, threads=args.threads)
            for quant in args.quants
        }
    vocabulary = next(iter(llms.values())).config.vocab_size
    print(f"{'':<14}" + "".join(f"{quant:>12}" for quant in llms))
    for name, (length, tokens) in WORKS.items():
        rates: dict[str, list[float]] = {quant: [] for quant in llms}
        for number in range(-1, args.rounds):  # the first one warms up
            generator = random.Random(f"{name}/{number}")
            prompt = [generator.randrange(vocabulary) for _ in range(length)]
            order = list(llms)[:: 1 if number % 2 else -1]
            found = {quant: rate(llms[quant], prompt, tokens) for quant in order}
            for quant in llms if number >= 0 else ():
                rates[quant].append(found[quant])
        print(f"{name:<14}" + "".join(f"{statistics.median(values):>12.1f}" for values in rates.values()), flush=True)
        for base in ("none", "int8"):
            if base in rates:
                ratios = (statistics.median(a / b for a, b in zip(values, rates[base], strict=True)) for values in rates.values())
                print(f"{f'  times {base}':<14}" + "".join(f"{ratio:>12.2f}" for ratio in ratios), flush=True)


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        sys.exit(f"formats: {error}")
