"""`brigade bench serve`: requests to a coordinator as users send them, and when their tokens come."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from brigade.cli.options import CLIENTS
from brigade.cli.progress import Progress
from brigade.errors import ConfigError
from brigade.output_files import check_outputs, write_file, write_json


def add_arguments(kinds: Any) -> None:
    parser = kinds.add_parser("serve", help="requests to a coordinator, and when their tokens come")
    parser.add_argument("--connect", default=CLIENTS, metavar="ADDRESS", help=f"the coordinator's (default: {CLIENTS})")
    parser.add_argument("--model", help="the name that it serves (needed where there are several)")
    parser.add_argument("--keys", type=Path, metavar="FOLDER", help="keys of `brigade keys`")
    parser.add_argument(
        "--clients", type=int, nargs="+", metavar="N", help="a closed loop of so many, each size in turn (default 1 8 32)"
    )
    parser.add_argument("--rate", type=float, nargs="+", metavar="R", help="requests a second instead, each rate in turn")
    parser.add_argument(
        "--arrivals", choices=("poisson", "fixed"), help="with --rate: at random moments, or evenly (default: poisson)"
    )
    parser.add_argument("--num-requests", type=int, default=64, metavar="N", help="of each load (default 64)")
    parser.add_argument("--prompt-length", type=int, nargs=2, metavar=("LO", "HI"), default=(16, 128), help="(default 16 128)")
    parser.add_argument("--output-length", type=int, nargs=2, metavar=("LO", "HI"), default=(8, 128), help="(default 8 128)")
    parser.add_argument("--lengths", choices=("uniform", "skewed"), default="uniform", help="how output lengths spread")
    parser.add_argument("--ttft-target", type=float, metavar="MS", help="goodput: first tokens within so many milliseconds")
    parser.add_argument(
        "--itl-target", type=float, metavar="MS", help="goodput: the others within so many, on the average of a request"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the prompts; those of a seed used before are in the prefix cache")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="a picture of the times")


def run(args: argparse.Namespace) -> int:
    import asyncio

    from brigade.bench.serving import as_json, drive, table
    from brigade.bench.serving_picture import draw
    from brigade.bench.workload import WorkloadConfig, simulate
    from brigade.client import AsyncClient
    from brigade.text_table import columns

    check_outputs({"--json": args.json, "--svg": args.svg}, [])
    loads = _loads(args)
    first, between = (None if value is None else value / 1e3 for value in (args.ttft_target, args.itl_target))
    config = WorkloadConfig(
        num_requests=args.num_requests, prompt_length=tuple(args.prompt_length), output_length=tuple(args.output_length),
        lengths=args.lengths, seed=args.seed,
    )  # fmt: skip
    client = AsyncClient(args.connect, args.model, keys=args.keys)
    try:
        replicas = [one for one in client.status().replicas if one.model == client.model]
        if not replicas:
            raise ConfigError(f"there is no replica of model {client.model!r} at {args.connect}; start one, or name another model")

        async def ask(request: Any) -> AsyncIterator[int]:
            params = {"max_tokens": request.max_tokens, "ignore_eos": True, "temperature": 0.0}
            async for delta in client.stream(request.prompt, params):
                if delta.error is not None:
                    raise RuntimeError(delta.error)
                if delta.token_ids:
                    yield len(delta.token_ids)

        found, progress = [], Progress("loads")
        for number, load in enumerate(loads):  # prompts of its own for each: those of another would be in the prefix cache
            own = replace(config, seed=1000 * args.seed + number)
            found.append(asyncio.run(drive(ask, simulate(own, replicas[0].identity.vocab_size), load)))
            progress(len(found), len(loads))
        progress.close()
    finally:
        client.close()
    print(
        f"{client.model} at {args.connect} | {len(replicas)} replicas | {args.num_requests} requests each, prompts of "
        f"{args.prompt_length[0]} to {args.prompt_length[1]} ids, answers of {args.output_length[0]} to {args.output_length[1]} "
        f"({args.lengths}) | times in milliseconds"
    )
    print("\n".join(columns(table(found, first, between))))
    if args.json is not None:
        about = {"model": client.model, "replicas": len(replicas), "address": args.connect}
        write_json(args.json, about | {"loads": [as_json(one, first, between) for one in found]})
    if args.svg is not None:
        write_file(args.svg, draw(found, f"{client.model}, {len(replicas)} replicas"))
    failed = [one.error for served in found for one in served.timings if one.error is not None]
    for error in failed[:3]:
        print(f"a request failed: {error}")
    return 1 if failed else 0


def _loads(args: argparse.Namespace) -> list[Any]:
    from brigade.bench.serving import Load

    if args.clients is not None and args.rate is not None:
        raise ConfigError("--clients and --rate are two kinds of load; give one of them")
    if args.rate is None:
        if args.arrivals is not None:
            raise ConfigError(f"--arrivals {args.arrivals} has no effect without --rate; give --rate, or drop it")
        return [Load(clients=number) for number in args.clients or (1, 8, 32)]
    return [Load(rate=rate, arrivals=args.arrivals or "poisson", seed=args.seed) for rate in args.rate]
