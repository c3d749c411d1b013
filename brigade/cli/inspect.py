"""`brigade inspect`: what a model is and what each rank of a layout would hold. Weights are read for a fingerprint alone."""

from __future__ import annotations

import argparse
import json
from typing import Any

from brigade.cli.capacity_lines import paper_facts, paper_lines
from brigade.cli.options import add_model_options, byte_size, engine_settings, layout_settings
from brigade.cli.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    said = "a folder, org/name of the hub, an artifact or a recipe (default: the embedded model)"
    parser.add_argument("model_name", nargs="?", metavar="MODEL", help=said)
    parser.add_argument("--as-json", action="store_true", help="print JSON")
    said = "print the model's fingerprint, for which all weights are read (that of an artifact is printed anyway)"
    parser.add_argument("--fingerprint", action="store_true", help=said)
    add_model_options(parser)
    group = parser.add_argument_group("capacity", "does it fit, with a cache for the largest batch of the longest requests?")
    said = "what each rank may take, such as 80GiB (default: an even share of what this machine has free)"
    group.add_argument("--device-memory", type=byte_size, metavar="SIZE", help=said)
    group.add_argument("--context", type=int, dest="max_model_len", metavar="N", help="another name of --max-model-len")
    group.add_argument("--batch", type=int, dest="max_batch_size", metavar="N", help="another name of --max-batch-size")


def run(args: argparse.Namespace) -> int:
    from brigade.assembly.capacity import on_paper, smallest_layout
    from brigade.assembly.choices import Choices
    from brigade.assembly.fingerprint import fingerprint_of
    from brigade.assembly.line import draw
    from brigade.checkpoint.load import check_random_weights, open_model
    from brigade.errors import ConfigError
    from brigade.tokenizer import Tokenizer

    if args.model is not None and args.model_name is not None:
        raise ConfigError("the model is given twice; drop --model or the argument")
    if args.random_weights is not None and not args.fingerprint:
        raise ConfigError("--random-weights has no effect on inspect without --fingerprint, since no weights are read; drop it")
    for name in ("threads", "cpus", "max_waiting"):
        if getattr(args, name) is not None:
            raise ConfigError(f"--{name.replace('_', '-')} has no effect on inspect, which computes nothing; drop it")
    for option, value in (("--prefill-chunk", args.prefill_chunk), ("--no-prefix-cache", args.prefix_cache)):
        if value is not None:
            raise ConfigError(f"{option} has no effect on inspect, which plans no step; drop it")
    if args.exchange != "auto" or args.rank_timeout != 60.0:
        raise ConfigError("--exchange and --rank-timeout have no effect on inspect, which starts no rank; drop them")
    if args.device_memory is not None and args.device_memory < 1:
        raise ConfigError(f"--device-memory is {args.device_memory} bytes; give what a rank may take, such as 80GiB")
    choices = Choices(
        args.model_name or args.model, args.dtype, args.backend, args.device, args.exact == "on", quant=args.quant,
        skip_layers=args.skip_layers, random_weights=args.random_weights, numerics=args.numerics,
        engine=args.engine, engine_settings=engine_settings(args),
        **layout_settings(args),
    )  # fmt: skip
    if args.fingerprint:
        check_random_weights(open_model(choices.model), args.random_weights)
    blueprint = draw(choices)
    source, backend = blueprint.source, blueprint.backend
    manifest = None if source.artifact is None else source.artifact.manifest
    given = args.device_memory is not None
    free = args.device_memory if given else backend.free_memory()
    memory = free if given else free // blueprint.neighbours
    paper, smallest = on_paper(blueprint, memory), smallest_layout(blueprint, free)
    fingerprint, reading = None, Progress("reading")
    if args.fingerprint or manifest is not None:
        fingerprint = fingerprint_of(blueprint, reading)
        reading.close()
    tokenizer = Tokenizer.of_model(source.tokenizer_path)
    facts = {
        "model": source.name, "family": source.config.family, "parameters": blueprint.whole_network.num_parameters,
        "weights_bytes": blueprint.weight_bytes, "numerics_id": blueprint.numerics_id,
        "formats": str(blueprint.number_formats),
        "artifact": None if manifest is None else artifact_facts(manifest), "fingerprint": fingerprint,
        "spec": spec_lines(source.config, backend), "memory": paper_facts(blueprint, paper, smallest),
        "ranks": [one.as_dict(memory) for one in paper.ranks],
        "tokenizer": None if tokenizer is None else {
            "ids": tokenizer.vocab_size, "bos": tokenizer.bos_id, "eos": list(tokenizer.eos_ids),
            "chat_template": tokenizer.has_chat_template,
        },
    }  # fmt: skip
    if args.as_json:
        print(json.dumps(facts, indent=1))
        return 0
    print(f"{source.name} ({source.config.family}): {blueprint.whole_network.num_parameters:,} parameters")
    print(facts["formats"])
    if manifest is not None:
        print(artifact_line(manifest, backend.numerics_id))
    if fingerprint is not None:
        print(f"fingerprint {fingerprint}")
    elif source.path is not None:
        print("fingerprint: --fingerprint reads the weights and prints it")
    print("\n".join(facts["spec"]))
    print("\n".join(paper_lines(blueprint, paper, smallest, given)))
    if tokenizer is None:
        print("tokenizer: none; prompts are token ids")
    else:
        chat = "with" if tokenizer.has_chat_template else "without"
        print(f"tokenizer: {tokenizer.vocab_size} ids, bos {tokenizer.bos_id}, eos {list(tokenizer.eos_ids)}, {chat} chat template")
    return 0


def artifact_facts(manifest: Any) -> dict[str, Any]:
    return {
        "version": manifest.version, "packed_format": manifest.packed_format, "quant": manifest.quant, "dtype": manifest.dtype,
        "skip_layers": manifest.skip_layers, "exported_from": manifest.name, "exported_for": manifest.numerics_id,
        "files": len(manifest.files),
    }  # fmt: skip


def artifact_line(manifest: Any, own: str) -> str:
    """A machine with other instructions computes from the same bytes, though not always to the same bits: said."""
    skipped = f" but {','.join(manifest.skip_layers)}" if manifest.skip_layers else ""
    line = f"artifact, version {manifest.version}: {manifest.name}, quant {manifest.quant}{skipped}, {manifest.dtype}"
    if own != manifest.numerics_id:
        line += f"; exported for {manifest.numerics_id}, computes here as {own}"
    return line


def spec_lines(config: Any, backend: Any) -> list[str]:
    """The spec tree; neighbouring layers that are built alike are one entry."""
    from brigade.model.layer_specs import gpt_spec

    lines: list[str] = []
    groups: list[tuple[str, str, list[str]]] = []  # first name, last name, lines
    for name, spec in gpt_spec(config, backend).items():
        shown = _tree(spec, 1)
        window = config.window(int(name.split(".")[1])) if name.startswith("layers.") else None
        if window is not None:
            shown.append(f"    window {window}")
        if groups and name.startswith("layers.") and groups[-1][2] == shown and groups[-1][0].startswith("layers."):
            groups[-1] = (groups[-1][0], name, shown)
        else:
            groups.append((name, name, shown))
    for first, last, shown in groups:
        name = first if first == last else f"{first}-{last.split('.')[1]}"
        lines += [f"  {name}: {shown[0].strip()}", *shown[1:]]
    return lines


def _tree(spec: Any, depth: int) -> list[str]:
    sizes = {k: v for k, v in spec.params.items() if isinstance(v, (int, float, str)) and v is not False}
    inner = ", ".join(f"{k}={v}" for k, v in sizes.items())
    lines = ["  " * depth + f"{spec.name}({inner})"]
    for name, part in spec.submodules.items():
        first, *rest = _tree(part, depth + 2)
        lines += ["  " * (depth + 1) + f"{name}: {first.strip()}", *rest]
    return lines
