"""`brigade eval`: perplexity and bits per byte of a text, and how far a model is from a reference."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brigade.cli.options import add_model_options, engine_settings, make_llm, model_files
from brigade.cli.progress import Progress
from brigade.errors import ConfigError, RequestError
from brigade.output_files import check_outputs, write_json
from brigade.parallel.rendezvous import found_world

if TYPE_CHECKING:
    from brigade.evaluate.divergence import Divergence
    from brigade.evaluate.evaltext import EvalText
    from brigade.evaluate.score import Score
    from brigade.evaluate.windows import Window, WindowConfig

# One window runs at a time and asks for every row, so neither company nor known prefixes can change anything.
ONE_AT_A_TIME = {"max_batch_size": 1, "max_step_tokens": 512, "prefill_chunk": 512}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    said = "a model folder, org/name of the hub or an artifact (default: the embedded model)"
    parser.add_argument("model_name", nargs="?", metavar="MODEL", help=said)
    parser.add_argument("--text", type=Path, metavar="FILE", required=True, help="a text file in UTF-8")
    parser.add_argument("--against", metavar="OTHER", help="a reference of the same tokenizer: adds KL(OTHER || MODEL)")
    parser.add_argument("--against-dtype", metavar="DTYPE", help="of OTHER (default: as --dtype)")
    parser.add_argument("--against-quant", metavar="QUANT", help="of OTHER (default: none)")
    parser.add_argument("--against-backend", metavar="BACKEND", help="of OTHER (default: as --backend)")
    said = "quantise each layer alone by --quant: which do most harm, for --skip-layers"
    parser.add_argument("--rank-layers", action="store_true", help=said)
    parser.add_argument("--window", type=int, metavar="N", help="most tokens of one forward pass (default: what the model allows)")
    parser.add_argument("--stride", type=int, metavar="N", help="tokens that a later window scores (default: half of the window)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    from brigade.evaluate.evaltext import read_text
    from brigade.evaluate.windows import cut_windows

    _refuse_useless(args)
    reference = [] if args.against is None else model_files(args.against)
    check_outputs({"--json": args.json}, [args.text, *model_files(args.model), *reference])
    text, config = _prepare(args, read_text(args.text))
    windows = cut_windows(len(text.ids), config)
    llm = _load(_alike(args, quant=None) if args.rank_layers else args, "loading the model")
    print(
        f"{llm.name} | {llm.number_formats} | {llm.numerics_id} | "
        f"{args.text.name}: {text.num_bytes} bytes, {len(text.ids) - 1} tokens scored | "
        f"{len(windows)} windows of up to {config.size}, stride {config.stride}",
        flush=True,
    )
    print(text.first_token)
    if not text.is_restored:
        print("the tokens do not give the text back byte for byte (a tokenizer that normalises): read bits per byte with care")
    facts: dict[str, Any] = {
        "model": llm.name, "numerics_id": llm.numerics_id, "formats": str(llm.number_formats), "text": str(args.text),
        "bytes": text.num_bytes,
        "scored_bytes": text.scored_bytes, "restored": text.is_restored, "first_token": text.first_token,
        "window": asdict(config), "windows": len(windows),
    }  # fmt: skip
    if args.rank_layers:
        facts |= _ranking(args, llm, text, config)
    else:
        facts |= _alone(llm, text, windows) if args.against is None else _against(args, llm, text, windows)
    if args.json is not None:
        write_json(args.json, facts)
    return 0


def _refuse_useless(args: argparse.Namespace) -> None:
    if args.model is not None and args.model_name is not None:
        raise ConfigError("the model is given twice; drop --model or the argument")
    args.model = args.model_name or args.model
    for name in ("dtype", "quant", "backend"):
        if getattr(args, f"against_{name}") is not None and args.against is None:
            raise ConfigError(f"--against-{name} has no effect without --against; drop it, or name the reference")
    if args.rank_layers:
        _check_ranking(args)
    world = found_world()
    if world is not None and (args.rank_layers or args.against is not None):
        raise ConfigError(
            f"--against and --rank-layers load more than one model, but the ranks that {world.launcher} started serve one; "
            f"start the command without {world.launcher}"
        )
    if args.random_weights is not None:
        raise ConfigError("--random-weights is for recipes, which have no tokenizer to read a text with; drop it")
    if args.max_waiting is not None:
        raise ConfigError("--max-waiting has no effect on eval, which runs one window at a time; drop it")
    if args.max_batch_size is not None:
        raise ConfigError("--max-batch-size has no effect on eval, which runs one window at a time; drop it")
    if args.prefix_cache is not None:
        raise ConfigError("--no-prefix-cache has no effect on eval, which computes every row; drop it")
    for name, value in ONE_AT_A_TIME.items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def _check_ranking(args: argparse.Namespace) -> None:
    if args.quant in (None, "none"):
        raise ConfigError("--rank-layers needs --quant, in which each layer is held alone: int8, int8-weight, int4 or int4-int8")
    if args.against is not None or args.skip_layers:
        raise ConfigError("--rank-layers compares with the model itself, layer by layer; drop --against and --skip-layers")


def _prepare(args: argparse.Namespace, text: str) -> tuple[EvalText, WindowConfig]:
    """Everything that can be refused before a weight is read."""
    from brigade.assembly.choices import settle_engine
    from brigade.checkpoint.load import open_model
    from brigade.engine.memory_plan import model_length
    from brigade.evaluate.evaltext import check_same_ids, encode_text
    from brigade.evaluate.windows import WindowConfig
    from brigade.tokenizer import Tokenizer

    engine, read, limits = settle_engine(args.engine, engine_settings(args)), [], []
    for name in [args.model] if args.against is None else [args.model, args.against]:
        source = open_model(name)
        if args.rank_layers and source.artifact is not None:
            raise ConfigError(f"{source.name} is an artifact, packed for good; --rank-layers needs the model it was made from")
        if source.tokenizer_path is None:
            raise RequestError(f"{source.name} has no tokenizer, so it cannot read a text; give a model folder with one")
        tokenizer = Tokenizer.from_folder(source.tokenizer_path)
        read.append((source, tokenizer, encode_text(text, tokenizer)))
        limits.append(model_length(source.config, engine))
    if args.against is not None:
        (source, tokenizer, ids), (other, other_tokenizer, other_ids) = read
        sizes = source.config.vocab_size, other.config.vocab_size
        if sizes[0] != sizes[1]:
            raise RequestError(
                f"{source.name} has a vocabulary of {sizes[0]} and {other.name} one of {sizes[1]}; "
                "--against needs a model of the same vocabulary"
            )
        check_same_ids(ids, other_ids, tokenizer, other_tokenizer)
    _settle_all(args, *(source for source, _, _ in read))
    size = min(limits) if args.window is None else args.window
    if size > min(limits):
        raise ConfigError(f"window is {size}, but no more than {min(limits)} positions are there; lower --window")
    lead = read[0][2].every_window_starts
    stride = max(size // 2, 1) if args.stride is None else args.stride
    return read[0][2], WindowConfig(size, stride, lead)


def _settle_all(args: argparse.Namespace, source: Any, other: Any = None) -> None:
    """What cannot be computed with, of either model, is refused before the first is loaded."""
    from brigade.assembly.choices import Choices, settle

    for each, wanted in ((source, args), (other, None if other is None else _reference(args, source, other))):
        if wanted is not None:
            given = Choices(
                wanted.model, wanted.dtype, wanted.backend, wanted.device, wanted.exact == "on", None, wanted.quant,
                wanted.skip_layers, wanted.numerics,
            )  # fmt: skip
            settle(each, given)


def _load(args: argparse.Namespace, what: str) -> Any:
    loading = Progress(what)
    llm = make_llm(args, progress=loading)
    loading.close()
    return llm


def _alone(llm: Any, text: EvalText, windows: list[Window]) -> dict[str, Any]:
    from brigade.evaluate.score import logits_of, score_text

    progress = Progress("windows")
    score = score_text(logits_of(llm), text.ids, windows, progress)
    progress.close()
    print(_score_line(llm.name, score, text))
    return _score_facts(score, text)


def _against(args: argparse.Namespace, llm: Any, text: EvalText, windows: list[Window]) -> dict[str, Any]:
    from brigade.checkpoint.load import open_model
    from brigade.evaluate.divergence import DIRECTION, compare
    from brigade.evaluate.score import logits_of

    other = _load(_reference(args, llm.source, open_model(args.against)), "loading the reference")
    progress = Progress("windows")
    found = compare(logits_of(llm), logits_of(other), text.ids, windows, progress)
    progress.close()
    print(_score_line(f"Q {llm.name}", found.model, text))
    print(f"{_score_line(f'P {other.name}', found.reference, text)} ({other.number_formats}; {other.numerics_id})")
    change = _changes(found, text)
    print(f"Q beside P: perplexity {change['perplexity']:+.4f}%, bits per byte {change['bits_per_byte']:+.4f}%")
    print(f"{DIRECTION}, in nats: mean {found.mean_kl:.4e}, maximum {found.max_kl:.4e} at token {found.max_kl_token}")
    print(f"the most likely token is the same at {found.same_top:.4%} of {found.model.tokens} positions")
    return _score_facts(found.model, text) | {
        "against": {"model": other.name, "numerics_id": other.numerics_id, "formats": str(other.number_formats)}
        | _score_facts(found.reference, text),
        "percent": change,
        "kl": {"direction": DIRECTION, "mean": found.mean_kl, "max": found.max_kl, "max_token": found.max_kl_token},
        "same_top1": found.same_top,
    }


def _reference(args: argparse.Namespace, source: Any, other: Any) -> argparse.Namespace:
    """What loads OTHER. An artifact, of either side, brings its own dtype and backend, and asks nothing of the other one."""
    apart = source.artifact is not None or other.artifact is not None
    dtype, backend = ("auto", "auto") if apart else (args.dtype, args.backend)
    return _alike(
        args, model=args.against, dtype=args.against_dtype or dtype, quant=args.against_quant,
        backend=args.against_backend or backend, skip_layers=(), numerics=None,
    )  # fmt: skip


def _alike(args: argparse.Namespace, **changes: Any) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(args), **changes})


def _ranking(args: argparse.Namespace, llm: Any, text: EvalText, config: WindowConfig) -> dict[str, Any]:
    from brigade.evaluate.sensitivity import rank_layers, ranking_lines

    names = [*(str(i) for i in range(llm.config.num_layers)), "head"]

    def with_only(name: str) -> Any:
        return make_llm(_alike(args, skip_layers=[other for other in names if other != name], numerics=None))

    progress = Progress("layers")
    rows = rank_layers(llm, names, with_only, text.ids, config, progress)
    progress.close()
    print(f"each layer alone in {args.quant}, most harmful first, against the whole model ({llm.number_formats})")
    print("\n".join(ranking_lines(rows)))
    print(f"to keep the first three whole: --quant {args.quant} --skip-layers {','.join(row.name for row in rows[:3])}")
    return {
        "quant": args.quant,
        "ranking": [
            {"layer": row.name, "mean_kl": row.divergence.mean_kl, "max_kl": row.divergence.max_kl,
             "same_top1": row.divergence.same_top, "perplexity": row.divergence.model.perplexity}
            for row in rows
        ],
    }  # fmt: skip


def _changes(found: Divergence, text: EvalText) -> dict[str, float]:
    """What the model needs more than the reference, in percent."""
    own, theirs = _score_facts(found.model, text), _score_facts(found.reference, text)
    return {name: 100 * (own[name] / theirs[name] - 1) for name in ("perplexity", "bits_per_byte")}


def _score_facts(score: Score, text: EvalText) -> dict[str, float]:
    return {
        "tokens": score.tokens, "nats": score.nats, "perplexity": score.perplexity,
        "bits_per_byte": score.bits_per_byte(text.scored_bytes),
    }  # fmt: skip


def _score_line(name: str, score: Score, text: EvalText) -> str:
    return (
        f"{name}: {score.tokens} tokens, perplexity {score.perplexity:.4f}, "
        f"{score.bits_per_byte(text.scored_bytes):.4f} bits per byte over {text.scored_bytes} bytes"
    )
