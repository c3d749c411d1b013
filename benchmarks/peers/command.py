"""The run behind `brigade bench peers`, from its arguments to its report."""

from __future__ import annotations

import argparse
import datetime
import platform
import sys
from contextlib import ExitStack
from typing import Any

from benchmarks.peers.alternation import Plan, alternate
from benchmarks.peers.checkpoint import write_checkpoint
from benchmarks.peers.choice import choose, listing
from benchmarks.peers.figures import Figures
from benchmarks.peers.fleet import Harbour, assemble
from benchmarks.peers.report import as_json, grids
from benchmarks.peers.works import cells
from brigade.cli.options import check_writable, write_json
from brigade.cli.progress import Progress
from brigade.errors import ConfigError

LEAST = {"repeats": 1, "warmup": 0, "threads": 1, "limit": 1}


def run(args: argparse.Namespace) -> int:
    if args.list:
        print("\n".join(listing()))
        return 0
    _check(args)
    chosen = choose(args.peers, args.variants or [])
    wanted = cells(args.works, args.batch_sizes)
    folder = args.work.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / f"{args.model.lower()}-{args.seed}"
    _say("checkpoint: writing")
    config = write_checkpoint(args.model, args.seed, checkpoint)
    longest = max(cell.prompt + cell.new for cell in wanted)
    if longest > config.max_positions:
        raise ConfigError(
            f"{args.model} was made for {config.max_positions} positions, below the {longest} of a request; take another"
        )
    harbour = Harbour(folder, checkpoint, args.model, args.seed, args.threads, args.limit)
    with ExitStack() as stack:
        fleet = assemble(chosen, harbour, stack, _say)
        progress = Progress("rounds")
        plan = Plan(wanted, args.repeats, args.warmup, config.vocab_size, args.limit)
        found = alternate(fleet.workers, plan, lambda label, cell: cell.work in fleet.variants[label].works, progress)
        progress.close()
    figures = Figures(found, {label: variant.bits for label, variant in fleet.variants.items()})
    tables = grids(figures, fleet, wanted)
    facts = _facts(args)
    print(
        f"{args.model}, random weights {args.seed}, {args.threads} threads, {args.repeats} repetitions after {args.warmup}, "
        f"in alternation, {facts['date']}, {facts['processor']}"
    )
    print("\n\n".join("\n".join(grid.text()) for grid in tables))
    if args.markdown is not None:
        args.markdown.write_text("\n\n".join("\n".join(grid.markdown()) for grid in tables) + "\n", encoding="utf-8")
    if args.json is not None:
        write_json(args.json, as_json(figures, fleet, wanted, facts))
    return 0


def _check(args: argparse.Namespace) -> None:
    for name, least in LEAST.items():
        if getattr(args, name) < least:
            raise ConfigError(f"{name} is {getattr(args, name)}; it must be {least} or more")
    if min(args.batch_sizes) < 1 or max(args.batch_sizes) > 32 or len(set(args.batch_sizes)) < len(args.batch_sizes):
        raise ConfigError(f"batch-sizes is {args.batch_sizes}; give each once, 1 to 32")
    if args.work.exists() and not args.work.is_dir():
        raise ConfigError(f"--work {args.work} is a file; give a folder")
    check_writable(args.json)
    check_writable(args.markdown)


def _facts(args: argparse.Namespace) -> dict[str, Any]:
    from brigade.cli.env import collect

    machine = collect()
    return {
        "model": args.model, "random_weights": args.seed, "threads": args.threads, "repeats": args.repeats, "warmup": args.warmup,
        "date": datetime.date.today().isoformat(), "python": platform.python_version(),
        "processor": f"{machine['cores']} cores, {machine['processor']}, {machine['instructions']}",
    }  # fmt: skip


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
