"""Options that several commands share, and what they become."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ENGINE_SETTINGS = (
    "max_batch_size", "block_size", "kv_blocks", "kv_memory", "max_step_tokens", "prefill_chunk", "max_model_len", "max_waiting",
)  # fmt: skip
CLIENTS, REPLICAS, OPERATORS = (f"tcp://127.0.0.1:{port}" for port in (6500, 6501, 6502))  # where a coordinator listens


def byte_size(text: str) -> int:
    """`512M`, `2G`, `80GiB`, or plain bytes. K, M and G are powers of 1024, with `iB` behind them or not."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    short = text.upper().removesuffix("IB")
    try:
        if short[-1:] in units:
            return int(float(short[:-1]) * units[short[-1]])
        return int(text)
    except (ValueError, OverflowError):
        said = f"{text!r} is no size; write bytes, or a number with KiB, MiB or GiB, such as 80GiB"
        raise argparse.ArgumentTypeError(said) from None


def add_model_options(
    parser: argparse.ArgumentParser,
    engines: tuple[str, ...] = ("dynamic", "static"),
    defaults: Mapping[str, str] | None = None,
) -> None:
    """`defaults` are what the help says of a command that chooses its own."""
    said = {"max_batch_size": "32", "max_step_tokens": "512", "prefill_chunk": "256", "max_model_len": "what the model allows"}
    said |= defaults or {}
    group = parser.add_argument_group("model")
    words = "a Hugging Face folder, org/name of the hub, an artifact, or a recipe (default: the embedded model)"
    group.add_argument("--model", help=words)
    group.add_argument(
        "--dtype", default="auto", help="auto, float32 or bfloat16 (default: the checkpoint's own, a recipe's bfloat16)"
    )
    group.add_argument("--random-weights", type=int, metavar="SEED", help="build a recipe with deterministic weights")
    group.add_argument("--backend", default="auto", help="auto, cpu (native kernels) or reference")
    add_quant_options(group)
    group.add_argument("--device", default="cpu", help="where tensors are; the cpu backend takes cpu alone (default: cpu)")
    group.add_argument(
        "--exact", choices=["on", "off"], default="on", help="off: accept results that depend on the batch (reference)"
    )
    group.add_argument("--numerics", metavar="ID", help="bits to give, such as bf16-fma, by the fastest instructions for them")
    group.add_argument("--threads", type=int, help="of each rank (default: a share of the processors)")
    group.add_argument("--cpus", metavar="LIST", help="one thread on each of these processors, such as 0-3 (the cpu backend)")
    add_layout_options(parser)
    group = parser.add_argument_group("engine")
    said_engine = "dynamic: requests join and leave at each step; static: in groups"
    group.add_argument("--engine", choices=engines, default=engines[0], help=f"{said_engine} (default: {engines[0]})")
    group.add_argument("--max-batch-size", type=int, help=f"requests that run at once (default: {said['max_batch_size']})")
    group.add_argument("--block-size", type=int, help="positions of a KV block: 32 or 64; reference: 8 and 16 too (default 64)")
    group.add_argument("--kv-blocks", type=int, help="number of KV blocks")
    group.add_argument("--kv-memory", type=byte_size, help="memory for KV blocks, such as 512M; with --dp, of each replica")
    group.add_argument("--max-step-tokens", type=int, help=f"new tokens of one step (default: {said['max_step_tokens']})")
    group.add_argument(
        "--prefill-chunk", type=int, help=f"prompt tokens of one request in one step (default: {said['prefill_chunk']})"
    )
    group.add_argument("--max-waiting", type=int, metavar="N", help="requests that may wait for their start (default: 65536)")
    group.add_argument(
        "--no-prefix-cache", dest="prefix_cache", action="store_false", default=None, help="compute every prompt whole"
    )
    group.add_argument("--max-model-len", type=int, help=f"prompt and output together (default: {said['max_model_len']})")


def given_model_options(args: argparse.Namespace) -> dict[str, Any]:
    """Those of `add_model_options` that are not as they are without a word."""
    known = argparse.ArgumentParser(add_help=False)
    add_model_options(known)
    return {one.dest: getattr(args, one.dest) for one in known._actions if getattr(args, one.dest) != one.default}


def refuse_model_options(args: argparse.Namespace) -> None:
    """For a command that asks a coordinator: what a model computes with is its replicas' affair. `--model` names it then."""
    from brigade.errors import ConfigError
    from brigade.replica.launcher import as_options

    useless = as_options({name: value for name, value in given_model_options(args).items() if name != "model"})
    if useless:
        raise ConfigError(f"{useless[0]} has no effect with --connect, where replicas compute; drop it")


def add_layout_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "layout", "one model over many ranks; under torchrun or srun the ranks are those that it started"
    )
    group.add_argument("--tp", type=int, default=1, metavar="N", help="ranks that share each layer (tensor parallel)")
    group.add_argument("--pp", type=int, default=1, metavar="N", help="stages that the layers are cut into (pipeline parallel)")
    group.add_argument("--pp-layers", type=counts, metavar="LIST", help="layers of each stage, such as 10,14 (default: by cost)")
    add_rank_options(group, "auto", 60.0)


def add_rank_options(group: Any, exchange: str | None = None, rank_timeout: float | None = None) -> None:
    """How ranks are run, with the defaults of a command that has to tell whether they were given."""
    group.add_argument(
        "--exchange", choices=["auto", "shared", "group"], default=exchange,
        help="how ranks talk: shared memory, a process group, or (auto) shared memory where they share a machine",
    )  # fmt: skip
    group.add_argument(
        "--rank-timeout",
        type=float,
        default=rank_timeout,
        metavar="S",
        help="seconds without a finished layer that end a hanging step (60)",
    )
    group.add_argument(
        "--import", dest="import_modules", action="append", default=[], metavar="MODULE",
        help="import it in every rank: a backend, family or sampling parameter of your own",
    )  # fmt: skip


def counts(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers; write layers of each stage such as 10,14") from None


def layout_settings(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in ("tp", "pp", "pp_layers", "exchange", "rank_timeout", "import_modules")}


def add_quant_options(group: Any) -> None:
    group.add_argument("--quant", help="none, int8, int8-weight, int4 or int4-int8, on the cpu backend (default: none)")
    group.add_argument(
        "--skip-layers", type=_list, default=(), metavar="LIST",
        help="what stays whole under --quant, such as 0,3.down,head: layers, their parts qkv, out, up, down, and the head",
    )  # fmt: skip


def _list(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def engine_settings(args: argparse.Namespace) -> dict[str, Any]:
    settings = {name: getattr(args, name) for name in ENGINE_SETTINGS if getattr(args, name) is not None}
    return settings if args.prefix_cache is None else settings | {"prefix_cache": args.prefix_cache}


def make_llm(args: argparse.Namespace, engine: str | None = None, progress: Any = None, check: Any = None) -> Any:
    """`check` is called with blueprint and plan before the weights are read: what it refuses costs no loading."""
    from brigade.api.llm import LLM

    return LLM(
        args.model, dtype=args.dtype, engine=engine or args.engine, backend=args.backend, device=args.device,
        exact=args.exact == "on", random_weights=args.random_weights, quant=args.quant, skip_layers=args.skip_layers,
        numerics=args.numerics, threads=args.threads, cpus=args.cpus, progress=progress, check=check, **layout_settings(args),
        **engine_settings(args),
    )  # fmt: skip


def admits(prompts: Sequence[Any], settings: Sequence[Mapping[str, Any]]) -> Callable[[Any, Any], None]:
    """A check for `make_llm`: each prompt, with its parameters, is one that the model can serve."""

    def check(blueprint: Any, plan: Any) -> None:
        from brigade.engine.prompt import encode_prompt, named
        from brigade.engine.submission import first_matcher

        limits, count = blueprint.limits(plan), 0
        for number, (prompt, one) in enumerate(zip(prompts, settings, strict=True)):
            params = blueprint.params(**one)
            count += params.n
            with named(number, len(prompts)):
                limits.admit(encode_prompt(prompt, blueprint.tokenizer).token_ids, params)
                if params.constraint is not None:
                    first_matcher(params.constraint, blueprint.tokenizer, limits.vocab_size)
        limits.check_count(count)

    return check


SAMPLING: dict[str, dict[str, Any]] = {
    "temperature": {"type": float}, "top_k": {"type": int}, "top_p": {"type": float}, "min_p": {"type": float},
    "seed": {"type": int}, "repetition_penalty": {"type": float}, "presence_penalty": {"type": float},
    "frequency_penalty": {"type": float}, "min_tokens": {"type": int}, "max_tokens": {"type": int}, "n": {"type": int},
    "logprobs": {"type": int}, "prompt_logprobs": {"type": int}, "priority": {"type": int},
    "stop": {"action": "append"}, "stop_token_ids": {"type": int, "nargs": "+"},
    "ignore_eos": {"action": "store_true"}, "echo": {"action": "store_true"}, "include_stop": {"action": "store_true"},
}  # fmt: skip


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling")
    for name, settings in SAMPLING.items():
        group.add_argument(f"--{name.replace('_', '-')}", default=None, **settings)
    group.add_argument("--logit-bias", type=_bias, metavar="'{\"ID\": BIAS}'", help="a JSON object")


def _bias(text: str) -> dict[int, float]:
    try:
        return {int(token): bias for token, bias in json.loads(text).items()}
    except (ValueError, AttributeError, RecursionError):
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object of ids and numbers") from None


def sampling_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Only what was given, so that a prompt file's lines can add to it."""
    return {name: getattr(args, name) for name in (*SAMPLING, "logit_bias") if getattr(args, name) is not None}


def with_defaults(llm: Any, settings: list[dict[str, Any]]) -> list[Any]:
    """Parameters with the checkpoint's own defaults under them, which are said once, where they have an effect."""
    found = {name: value for name, value in llm.sampling_defaults.items() if any(name not in one for one in settings)}
    if found:
        shown = ", ".join(f"{name} {value}" for name, value in found.items())
        print(f"the model's own sampling defaults: {shown}", file=sys.stderr)
    return [llm.params(**one) for one in settings]


def model_files(name: str | None) -> list[Path]:
    """What a model's name stands for on the disk: a folder, a recipe's file, or what the cache has of a model of the hub."""
    from brigade.checkpoint.hub import cached_folders
    from brigade.checkpoint.load import EMBEDDED
    from brigade.checkpoint.recipes import find_recipe

    if name is None:
        return [EMBEDDED]
    if Path(name).exists():
        return [Path(name)]
    found = EMBEDDED if name == EMBEDDED.name else find_recipe(name)
    return cached_folders(name) if found is None else [found]
