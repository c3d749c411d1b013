"""`brigade inspect`: what a model is, without reading a weight."""

from __future__ import annotations

import argparse
import json
from typing import Any

from brigade.cli.options import add_model_options, engine_settings, layout_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    said = "a folder, an artifact or a recipe (default: the embedded model)"
    parser.add_argument("model_name", nargs="?", metavar="MODEL", help=said)
    parser.add_argument("--as-json", action="store_true", help="print JSON")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    from brigade.assembly.choices import Choices
    from brigade.assembly.line import draw
    from brigade.engine.memory_plan import readable
    from brigade.errors import ConfigError
    from brigade.model.gpt_model import empty_model
    from brigade.tokenizer import Tokenizer

    if args.model is not None and args.model_name is not None:
        raise ConfigError("the model is given twice; drop --model or the argument")
    if args.random_weights is not None:
        raise ConfigError("--random-weights has no effect on inspect, which reads no weights; drop it")
    for name in ("threads", "cpus", "max_waiting"):
        if getattr(args, name) is not None:
            raise ConfigError(f"--{name.replace('_', '-')} has no effect on inspect, which computes nothing; drop it")
    if args.exchange != "auto" or args.rank_timeout != 60.0:
        raise ConfigError("--exchange and --rank-timeout have no effect on inspect, which starts no rank; drop them")
    choices = Choices(
        args.model_name or args.model, args.dtype, args.backend, args.device, args.exact == "on", quant=args.quant,
        skip_layers=args.skip_layers, numerics=args.numerics, engine=args.engine, engine_settings=engine_settings(args),
        **layout_settings(args),
    )  # fmt: skip
    blueprint = draw(choices)
    source, backend, model = blueprint.source, blueprint.backend, blueprint.network
    manifest = None if source.artifact is None else source.artifact.manifest
    try:
        plan = blueprint.plan()
        memory: Any = plan.as_dict()
        memory_line = str(plan)
    except ConfigError as error:  # too big for this machine is an answer, not a mistake
        memory, memory_line = {"refused": str(error)}, f"memory: {error}"
    tokenizer = None if source.tokenizer_path is None else Tokenizer.from_folder(source.tokenizer_path)
    facts = {
        "model": source.name, "family": source.config.family, "parameters": model.num_parameters,
        "weights_bytes": blueprint.weight_bytes, "numerics_id": blueprint.numerics_id,
        "formats": str(blueprint.number_formats),
        "artifact": None if manifest is None else artifact_facts(manifest),
        "spec": spec_lines(source.config, backend), "memory": memory, "ranks": ranks_facts(blueprint),
        "tokenizer": None if tokenizer is None else {
            "ids": tokenizer.vocab_size, "bos": tokenizer.bos_id, "eos": list(tokenizer.eos_ids),
            "chat_template": tokenizer.has_chat_template,
        },
    }  # fmt: skip
    if args.as_json:
        print(json.dumps(facts, indent=1))
        return 0
    size, many = readable(blueprint.weight_bytes), blueprint.mesh.world > 1
    whole = empty_model(source.config, backend).num_parameters if many else model.num_parameters
    held = f"{size} in memory" if not many else f"of which rank 0 of {blueprint.mesh.world} holds {model.num_parameters:,}, {size}"
    print(f"{source.name} ({source.config.family}): {whole:,} parameters, {held}")
    print(facts["formats"])
    if manifest is not None:
        print(artifact_line(manifest, backend.numerics_id))
    print("\n".join(facts["spec"]))
    print(f"rank 0, in its share of this machine: {memory_line}" if many else memory_line)
    if blueprint.mesh.world > 1:
        print("\n".join(ranks_lines(blueprint, facts["ranks"])))
    if tokenizer is None:
        print("tokenizer: none; prompts are token ids")
    else:
        chat = "with" if tokenizer.has_chat_template else "without"
        print(f"tokenizer: {tokenizer.vocab_size} ids, bos {tokenizer.bos_id}, eos {list(tokenizer.eos_ids)}, {chat} chat template")
    return 0


def ranks_facts(blueprint: Any) -> list[dict[str, Any]]:
    """What each rank holds. `repacked`: packed matrices that are cut inside a panel of 32 outputs, which is a copy at loading."""
    from dataclasses import replace

    found = []
    for rank in range(blueprint.mesh.world):
        own = replace(blueprint, rank=rank)
        found.append(
            {
                "rank": rank,
                "stage": blueprint.mesh.stage(rank),
                "tensor_rank": blueprint.mesh.tp_rank(rank),
                "layers": [own.held.first_layer, own.held.last_layer - 1],
                "heads": own.local.num_heads,
                "kv_heads": own.local.num_kv_heads,
                "vocabulary": list(own.held.vocabulary(own.local.vocab_size)) if own.held.is_last else None,
                "weights_bytes": own.backend.packed_bytes(own.network, own.dtype),
                "position_bytes": own.position_bytes,
                "repacked": own.backend.cut_inside_panels(own.network),
            }  # fmt: skip
        )
    return found


def ranks_lines(blueprint: Any, ranks: list[dict[str, Any]]) -> list[str]:
    from brigade.engine.memory_plan import readable

    mesh = blueprint.mesh
    lines = [f"layout: tp {mesh.tp} x pp {mesh.pp}, {mesh.world} ranks; rank 0 leads"]
    for one in ranks:
        line = (
            f"  rank {one['rank']}: stage {one['stage']}, tensor rank {one['tensor_rank']}, layers {one['layers'][0]} to "
            f"{one['layers'][1]}, {one['heads']} query heads, {one['kv_heads']} of keys, weights {readable(one['weights_bytes'])}, "
            f"{readable(one['position_bytes'])} of cache a position"
        )
        if one["vocabulary"] is not None:
            line += f", logits of ids {one['vocabulary'][0]} to {one['vocabulary'][1] - 1}"
        lines.append(line)
        if one["repacked"]:
            lines.append(f"    cut inside a panel of 32 outputs, so repacked at loading: {', '.join(one['repacked'])}")
    return lines


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
