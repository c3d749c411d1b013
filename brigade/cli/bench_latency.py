"""`brigade bench latency`: whole batches from submission to end, beside the least time this machine could take."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brigade.cli.options import add_model_options, make_llm, model_files
from brigade.cli.progress import Progress
from brigade.errors import ConfigError
from brigade.output_files import check_outputs, write_file, write_json

if TYPE_CHECKING:
    from brigade.bench.latency import LatencyConfig

# What makes a whole batch start at once, said in the help; see `_fastest`.
DEFAULTS = {
    "max_batch_size": "the largest batch size", "max_step_tokens": "all prompts of the largest batch",
    "prefill_chunk": "the prompt length", "max_model_len": "prompt and output length",
}  # fmt: skip


def add_arguments(kinds: Any) -> None:
    parser = kinds.add_parser("latency", help="whole batches, first token apart, beside the floor of this machine")
    parser.add_argument("--prompt-length", type=int, default=128, help="random ids of each prompt (default 128)")
    parser.add_argument("--output-length", type=int, default=8, help="tokens of each answer (default 8)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16], metavar="N", help="(default 1 2 4 8 16)")
    parser.add_argument("--repeats", type=int, default=3, help="measured runs of each size (default 3)")
    parser.add_argument("--warmup", type=int, default=1, help="runs of each size before them (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the prompts (default 0)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="a picture of the table")
    add_model_options(parser, defaults=DEFAULTS)


def run(args: argparse.Namespace) -> int:

    from brigade.bench.ceilings import measure_ceilings
    from brigade.bench.floor import floor
    from brigade.bench.gauge import Reading, make_gauge
    from brigade.bench.latency import LatencyConfig, check_room, measure_latency
    from brigade.bench.latency_report import Row, as_json, table
    from brigade.bench.others import company
    from brigade.bench.picture import draw
    from brigade.bench.weights import weights_of

    check_outputs({"--json": args.json, "--svg": args.svg}, model_files(args.model))
    config = LatencyConfig(
        args.prompt_length, args.output_length, tuple(args.batch_sizes), args.repeats, args.warmup, args.seed
    )  # fmt: skip
    _fastest(args, config)
    loading = Progress("loading")
    llm = make_llm(args, progress=loading)
    loading.close()
    check_room(config, llm.engine)
    ranks = llm.blueprint.neighbours  # of this machine, whose floor it is
    weights, threads = weights_of(llm), llm.backend.threads * ranks
    print(
        f"{llm.name} | {llm.number_formats} | {llm.numerics_id} | engine {args.engine} | "
        f"{config.prompt_length} ids in, {config.output_length} out, "
        f"greedy | {config.repeats} runs after {config.warmup} | steps of up to {llm.engine.config.max_step_tokens} tokens",
        flush=True,
    )
    # Before and after: whoever else was busy during one of them is then less likely to lower the ceilings.
    before = measure_ceilings(threads, llm.backend.device.type)
    before.rate(weights.arithmetic)  # an arithmetic without a ceiling is refused before the long work
    progress = Progress("runs")
    alone_on_cpu = llm.backend.device.type == "cpu" and ranks == 1  # a gauge reads with the threads of this process
    gauge = make_gauge(weights.arithmetic, threads, llm.backend.name == "cpu") if alone_on_cpu else None
    found = measure_latency(llm.engine, config, llm.config.vocab_size, progress, gauge, ranks == 1)
    progress.close()
    llm.engine.check()
    ceilings = before.better(measure_ceilings(threads, llm.backend.device.type))
    rate = ceilings.rate(weights.arithmetic)
    lengths = config.prompt_length, config.output_length
    rows = []
    for one in (latency.against(ceilings.beyond_loop(weights.arithmetic)) for latency in found):
        readings = one.readings or (Reading(ceilings.bandwidth),) * config.repeats
        floors = [floor(llm.config, weights, one.batch, *lengths, has.bandwidth, has.rate or rate) for has in readings]
        rows.append(Row(one, tuple(floors)))
    note = f"{weights.arithmetic} arithmetic, layers {weights.layers / 1e6:.0f} MB, head {weights.head / 1e6:.0f} MB"
    print(f"ceilings: {ceilings}")
    print(f"floor: {note}; each step the longer of operations / rate and bytes / GB/s, as read beside each run")
    if ranks == 1:
        print(company([one.others for one in found if one.others is not None], "batch sizes"))
    print("\n".join(table(rows)))
    if args.svg is not None:
        title = f"{llm.name}: {config.prompt_length} ids in, {config.output_length} out, {llm.numerics_id}"
        rates = f"{ceilings.bandwidth / 1e9:.0f} GB/s, {rate / 1e9:.0f} GFLOP/s, {threads} threads"
        write_file(args.svg, draw(rows, title, f"floor: {note}; {rates}"))
    if args.json is not None:
        facts = {
            "model": llm.name, "numerics_id": llm.numerics_id, "formats": str(llm.number_formats), "engine": args.engine,
            "config": asdict(config),
            "engine_config": asdict(llm.engine.config), "ceilings": asdict(ceilings), "weights": asdict(weights),
            "memory_plan": llm.plan.as_dict(), "rows": [as_json(row) for row in rows],
        }  # fmt: skip
        write_json(args.json, facts)
    return 0


def _fastest(args: argparse.Namespace, config: LatencyConfig) -> None:
    """Where nothing is said: the whole batch starts in one step, and no memory is planned for longer requests."""
    from brigade.checkpoint.load import open_model

    if args.prefix_cache is not None:
        raise ConfigError("--no-prefix-cache has no effect on latency, whose prompts are always new; drop it")
    source = open_model(args.model)
    if config.positions > source.config.max_positions:
        raise ConfigError(
            f"prompt-length {config.prompt_length} and output-length {config.output_length} are {config.positions} positions; "
            f"{source.name} was made for {source.config.max_positions}: lower them"
        )
    most = max(config.batch_sizes)
    rows = max(most if args.max_batch_size is None else args.max_batch_size, most * config.prompt_length)
    wanted: dict[str, Any] = {
        "max_batch_size": most, "max_model_len": config.positions, "max_step_tokens": rows, "prefill_chunk": config.prompt_length,
    }  # fmt: skip
    if args.engine == "dynamic":
        wanted["prefix_cache"] = False
    for name, value in wanted.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
