"""`brigade bench serve`: requests to a coordinator or a server as users send them, and when their tokens come."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brigade.cli.options import CLIENTS
from brigade.cli.progress import Progress
from brigade.errors import ConfigError
from brigade.output_files import check_outputs, write_file, write_json

if TYPE_CHECKING:
    from brigade.bench.serving import Load, Served
    from brigade.bench.workload import Simulated, WorkloadConfig

    Measured = tuple["About", list[Served], list[str]]  # the last: what the reader must know besides


def add_arguments(kinds: Any) -> None:
    parser = kinds.add_parser("serve", help="requests to a coordinator or an HTTP server, and when their tokens come")
    parser.add_argument("--connect", metavar="ADDRESS", help=f"the coordinator's (default: {CLIENTS})")
    parser.add_argument(
        "--url", help="a server with OpenAI's API in its place: `brigade serve`, or another; such as http://127.0.0.1:8000/v1"
    )
    parser.add_argument("--model", help="the name that it serves (a coordinator: needed where there are several; --url: the first)")
    parser.add_argument("--keys", type=Path, metavar="FOLDER", help="keys of `brigade keys`")
    parser.add_argument("--api-key", metavar="KEY", help="with --url: sent as Authorization: Bearer KEY")
    parser.add_argument(
        "--prompts", choices=("ids", "text"), help="with --url: text sends words where a server takes no token ids (default: ids)"
    )
    parser.add_argument(
        "--vocab-size", type=int, metavar="N", help="with --url: ids are below it (default: what the server tells, or 1000)"
    )
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


ONLY_HTTP = {"api_key": "--api-key", "prompts": "--prompts", "vocab_size": "--vocab-size"}
ONLY_COORDINATOR = {"connect": "--connect", "keys": "--keys"}


def run(args: argparse.Namespace) -> int:
    from brigade.bench.serving import as_json, table
    from brigade.bench.serving_picture import draw
    from brigade.bench.workload import WorkloadConfig
    from brigade.text_table import columns

    check_outputs({"--json": args.json, "--svg": args.svg}, [])
    _refuse_useless(args)
    loads = _loads(args)
    first, between = (None if value is None else value / 1e3 for value in (args.ttft_target, args.itl_target))
    config = WorkloadConfig(
        num_requests=args.num_requests, prompt_length=tuple(args.prompt_length), output_length=tuple(args.output_length),
        lengths=args.lengths, seed=args.seed,
    )  # fmt: skip
    about, found, notes = (_ask_coordinator if args.url is None else _ask_server)(args, config, loads)
    what = "words" if args.prompts == "text" else "ids"
    print(
        f"{about.title} at {about.address} | {args.num_requests} requests each, prompts of "
        f"{args.prompt_length[0]} to {args.prompt_length[1]} {what}, answers of {args.output_length[0]} to "
        f"{args.output_length[1]} ({args.lengths}) | times in milliseconds"
    )
    print("\n".join([*columns(table(found, first, between)), *notes]))
    if args.json is not None:
        write_json(args.json, about.facts | {"loads": [as_json(one, first, between) for one in found]})
    if args.svg is not None:
        write_file(args.svg, draw(found, about.title))
    failed = [one.error for served in found for one in served.timings if one.error is not None]
    for error in failed[:3]:
        print(f"a request failed: {error}")
    return 1 if failed else 0


@dataclass(frozen=True)
class About:
    """Who was measured. `facts`: for the JSON."""

    title: str
    address: str
    facts: dict[str, Any]


def _requests(config: WorkloadConfig, number: int, vocab_size: int, text: bool = False) -> list[Simulated]:
    """Of the load with this number. Each has prompts of its own: those of another would be in the prefix cache."""
    from brigade.bench.openai_server import as_texts
    from brigade.bench.workload import simulate

    own = replace(config, seed=1000 * config.seed + number)
    drawn = simulate(own, vocab_size)
    return as_texts(drawn, own.seed) if text else drawn


def _ask_coordinator(args: argparse.Namespace, config: WorkloadConfig, loads: Sequence[Load]) -> Measured:
    import asyncio

    from brigade.bench.serving import drive
    from brigade.client import AsyncClient

    address = args.connect or CLIENTS
    client = AsyncClient(address, args.model, keys=args.keys)
    try:
        replicas = [one for one in client.status().replicas if one.model == client.model]
        if not replicas:
            raise ConfigError(f"there is no replica of model {client.model!r} at {address}; start one, or name another model")

        async def ask(request: Any) -> AsyncIterator[int]:
            params = {"max_tokens": request.max_tokens, "ignore_eos": True, "temperature": 0.0}
            async for delta in client.stream(request.prompt, params):
                if delta.error is not None:
                    raise RuntimeError(delta.error)
                if delta.token_ids:
                    yield len(delta.token_ids)

        found, progress = [], Progress("loads")
        for number, load in enumerate(loads):
            requests = _requests(config, number, replicas[0].identity.vocab_size)
            found.append(asyncio.run(drive(ask, requests, load)))
            progress(len(found), len(loads))
        progress.close()
    finally:
        client.close()
    facts = {"model": client.model, "replicas": len(replicas), "address": address}
    return About(f"{client.model}, {len(replicas)} replicas", address, facts), found, []


def _ask_server(args: argparse.Namespace, config: WorkloadConfig, loads: Sequence[Load]) -> Measured:
    import asyncio

    from brigade.bench.http_client import Address
    from brigade.bench.openai_server import IDS_EVERYBODY_HAS, OpenAIServer
    from brigade.bench.serving import drive

    address = Address.of(args.url)

    async def measure() -> Measured:
        server = OpenAIServer(address, args.model or "", args.api_key)
        try:
            models = await server.models()
            served = next((one for one in models if args.model in (None, one.name)), None)
            if served is None:
                there = ", ".join(one.name for one in models) or "none"
                raise ConfigError(f"there is no model {args.model!r} at {address}; there is {there}")
            server.model = served.name
            vocab_size = args.vocab_size or served.vocab_size or IDS_EVERYBODY_HAS
            longest = config.prompt_length[1] + config.output_length[1]
            if args.prompts != "text" and served.positions is not None and longest > served.positions:
                raise ConfigError(
                    f"a request may have {longest} positions, but {served.name} has {served.positions}; give shorter "
                    "--prompt-length or --output-length"
                )
            found, progress = [], Progress("loads")
            for number, load in enumerate(loads):
                found.append(await drive(server.ask, _requests(config, number, vocab_size, args.prompts == "text"), load))
                progress(len(found), len(loads))
            progress.close()
        finally:
            server.close()
        facts = {
            "model": served.name, "address": str(address), "prompts": args.prompts or "ids", "vocab_size": vocab_size,
            "answers": server.answers, "answers_with_usage": server.usages, "prompt_tokens": server.prompt_tokens,
        }  # fmt: skip
        return About(served.name, str(address), facts), found, server.notes(found)

    return asyncio.run(measure())


def _refuse_useless(args: argparse.Namespace) -> None:
    useless, why = (ONLY_HTTP, "without") if args.url is None else (ONLY_COORDINATOR, "with")
    for name, option in useless.items():
        if getattr(args, name) is not None:
            raise ConfigError(f"{option} has no effect {why} --url; drop it")
    if args.prompts == "text" and args.vocab_size is not None:
        raise ConfigError("--vocab-size has no effect with --prompts text, which sends no ids; drop it")
    if args.vocab_size is not None and args.vocab_size < 1:
        raise ConfigError(f"--vocab-size is {args.vocab_size}; give 1 or more")


def _loads(args: argparse.Namespace) -> list[Any]:
    from brigade.bench.serving import Load

    if args.clients is not None and args.rate is not None:
        raise ConfigError("--clients and --rate are two kinds of load; give one of them")
    if args.rate is None:
        if args.arrivals is not None:
            raise ConfigError(f"--arrivals {args.arrivals} has no effect without --rate; give --rate, or drop it")
        return [Load(clients=number) for number in args.clients or (1, 8, 32)]
    return [Load(rate=rate, arrivals=args.arrivals or "poisson", seed=args.seed) for rate in args.rate]
