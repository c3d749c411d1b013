"""`brigade bench`: throughput of simulated requests, the engine's own work; latency and peers have files of their own."""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from brigade.cli import bench_latency, bench_peers, bench_serve
from brigade.cli.options import add_model_options, engine_settings, make_llm, model_files
from brigade.cli.progress import Progress
from brigade.cli.prompts import read_prompts_file
from brigade.errors import ConfigError
from brigade.output_files import check_outputs, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    throughput = kinds.add_parser("throughput", help="simulated requests through an engine")
    throughput.add_argument("prompts", nargs="*", help="prompts, used in turn (default: random ids)")
    throughput.add_argument("--prompts-file", metavar="JSONL")
    throughput.add_argument("--num-requests", type=int, help="(default 32)")
    throughput.add_argument("--requests-per-step", type=int, metavar="K")
    throughput.add_argument("--requests-per-second", type=float, metavar="R", help="Poisson arrivals; needs --duration")
    throughput.add_argument("--duration", type=float, metavar="S", help="seconds in which requests arrive")
    throughput.add_argument("--prompt-length", type=int, nargs=2, metavar=("LO", "HI"), help="(default 16 128)")
    throughput.add_argument("--output-length", type=int, nargs=2, metavar=("LO", "HI"), default=(8, 128))
    throughput.add_argument("--lengths", choices=["uniform", "skewed"], default="uniform", help="how output lengths spread")
    throughput.add_argument("--seed", type=int, default=0)
    throughput.add_argument("--repeats", type=int, default=1, help="runs of each engine, in turn")
    throughput.add_argument("--json", type=Path, metavar="FILE")
    add_model_options(throughput, ("dynamic", "static", "both"))
    overhead = kinds.add_parser("overhead", help="the dynamic engine's own work in a step, with a fake model")
    overhead.add_argument("--requests", type=int, default=32)
    overhead.add_argument("--steps", type=int, default=300)
    overhead.add_argument("--json", type=Path, metavar="FILE")
    bench_latency.add_arguments(kinds)
    bench_serve.add_arguments(kinds)
    bench_peers.add_arguments(kinds)


def run(args: argparse.Namespace) -> int:
    kinds = {
        "throughput": _throughput, "overhead": _overhead, "latency": bench_latency.run, "serve": bench_serve.run,
        "peers": bench_peers.run,
    }  # fmt: skip
    return kinds[args.kind](args)


def _throughput(args: argparse.Namespace) -> int:
    from brigade.assembly.choices import DYNAMIC_ONLY
    from brigade.bench.report import json_report, rank_facts, rank_lines, text_report
    from brigade.bench.runner import run_workload
    from brigade.bench.workload import WorkloadConfig, simulate

    check_outputs({"--json": args.json}, [args.prompts_file, *model_files(args.model)])
    prompts: list[Any] = list(args.prompts)
    if args.prompts_file is not None:
        given, settings = read_prompts_file(args.prompts_file, {})
        useless = sorted({name for one in settings for name in one})
        if useless:
            raise ConfigError(f"{args.prompts_file} sets {', '.join(useless)}, which has no effect on bench; drop it from the file")
        prompts += given
    _refuse_useless(args, prompts)
    config = WorkloadConfig(
        num_requests=args.num_requests or 32, prompt_length=tuple(args.prompt_length or (16, 128)),
        output_length=tuple(args.output_length), lengths=args.lengths, requests_per_step=args.requests_per_step,
        requests_per_second=args.requests_per_second, duration=args.duration, seed=args.seed,
    )  # fmt: skip
    kinds = ("static", "dynamic") if args.engine == "both" else (args.engine,)
    loading = Progress("loading")
    llm = make_llm(args, "dynamic" if args.engine == "both" else args.engine, loading)
    loading.close()
    if prompts and args.num_requests:
        prompts = [prompts[i % len(prompts)] for i in range(args.num_requests)]
    workload = simulate(config, llm.config.vocab_size, prompts)
    settings = engine_settings(args)
    print(
        f"{llm.name} | {llm.number_formats} | {llm.numerics_id} | engine {args.engine} | "
        f"{len(workload)} requests, {config.source}, output "
        f"{config.output_length[0]} to {config.output_length[1]} ({config.lengths}) | batch up to "
        f"{llm.engine.config.max_batch_size} | KV {llm.plan.kv / 2**20:.0f} MiB in {llm.plan.num_blocks} blocks",
        flush=True,
    )
    runs: dict[str, list[Any]] = {kind: [] for kind in kinds}
    times: dict[str, list[Any]] = {}
    for _ in range(args.repeats):
        for kind in kinds:
            own = {k: v for k, v in settings.items() if kind == "dynamic" or k not in DYNAMIC_ONLY}
            engine = llm.make_engine(kind, **own)
            progress = Progress(kind)
            llm.rank_times()
            runs[kind].append(run_workload(engine, kind, workload, progress=progress))
            times[kind] = llm.rank_times()
            progress.close()
            engine.check()
            engine.close()
    for kind in kinds:
        print("\n".join([*text_report(runs[kind][-1]), *rank_lines(llm.blueprint.mesh, times[kind])]))
    facts: dict[str, Any] = {"model": llm.name, "numerics_id": llm.numerics_id, "formats": str(llm.number_formats)}
    facts["memory_plan"] = llm.plan.as_dict()
    facts["ranks"] = {kind: rank_facts(llm.blueprint.mesh, found) for kind, found in times.items()}
    facts["runs"] = [json_report(run) for each in zip(*runs.values(), strict=True) for run in each]
    if len(kinds) == 2:
        ratios = [d.output_rate / s.output_rate for s, d in zip(runs["static"], runs["dynamic"], strict=True)]
        same = all(a.token_ids == b.token_ids for a, b in zip(runs["static"][0].outputs, runs["dynamic"][0].outputs, strict=True))
        facts |= {"dynamic_over_static": ratios, "same_tokens": same}
        print(
            f"dynamic / static, output tokens per second: {statistics.median(ratios):.2f} "
            f"({', '.join(f'{r:.2f}' for r in ratios)}); tokens of all requests {'equal' if same else 'DIFFER'}"
        )
    if args.json is not None:
        write_json(args.json, facts)
    return 0


def _refuse_useless(args: argparse.Namespace, prompts: list[Any]) -> None:
    if args.repeats < 1:
        raise ConfigError(f"repeats is {args.repeats}; it must be 1 or more")
    if prompts and args.prompt_length:
        raise ConfigError("--prompt-length has no effect where prompts are given; drop one of them")
    if args.requests_per_second is not None and args.num_requests is not None:
        raise ConfigError("--num-requests has no effect on Poisson arrivals, which --duration ends; drop it")


def _overhead(args: argparse.Namespace) -> int:
    from brigade.bench.overhead import measure_all, overhead_lines
    from brigade.checkpoint.load import EMBEDDED
    from brigade.tokenizer import Tokenizer

    if args.requests < 1 or args.steps < 1 or args.steps > 900:
        raise ConfigError(f"requests is {args.requests} and steps {args.steps}; they must be 1 or more, steps at most 900")
    check_outputs({"--json": args.json}, [EMBEDDED])
    results = measure_all(Tokenizer.from_folder(EMBEDDED), args.requests, args.steps)
    print(
        f"the engine's own work in one step, {args.requests} running requests, {args.steps} steps; "
        "weights: none, a fake model; arithmetic: float32 of the sampler; cache: none"
    )
    print("\n".join(overhead_lines(results)))
    if args.json is not None:
        from dataclasses import asdict

        write_json(args.json, [asdict(result) for result in results])
    return 0
