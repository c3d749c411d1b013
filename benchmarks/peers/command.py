"""The run behind `brigade bench peers`, from its arguments to its report."""

from __future__ import annotations

import argparse
import datetime
import math
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from benchmarks.peers.alternation import Measured, Plan, alternate
from benchmarks.peers.catalogue import BRIGADE, Peer, Variant
from benchmarks.peers.checkpoint import gpt2_config, write_checkpoint
from benchmarks.peers.choice import choose, listing
from benchmarks.peers.figures import Figures
from benchmarks.peers.fleet import Fleet, Harbour
from benchmarks.peers.report import as_json, company, grids
from benchmarks.peers.works import Cell, cells
from brigade.backends.cpu.threads import check_threads
from brigade.checkpoint.load import open_model
from brigade.cli.options import check_writable, write_json
from brigade.cli.progress import Progress
from brigade.errors import ConfigError

LEAST = {"repeats": 1, "warmup": 0, "seed": 0, "limit": 1}


def run(args: argparse.Namespace) -> int:
    if args.list and args.peers:
        raise ConfigError(f"--list names all peers, {' '.join(args.peers)} or not; drop one of both")
    if args.list:
        print("\n".join(listing()))
        return 0
    _check(args)
    chosen = choose(args.peers, args.variants or [])
    wanted = cells(args.works, args.batch_sizes)
    config = gpt2_config(args.model)
    longest = max(cell.prompt + cell.new for cell in wanted)
    if longest > config.max_positions:
        raise ConfigError(f"a request has {longest} positions, but {args.model} was made for {config.max_positions}; take another")
    folder = args.work.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / f"{open_model(args.model).name}-{args.seed}"
    if not checkpoint.exists():
        _say("checkpoint: writing")
        write_checkpoint(config, args.seed, checkpoint)
    facts = _facts(args)
    plan = Plan(wanted, args.repeats, args.warmup, config.vocab_size, args.limit)
    harbour = Harbour(folder, checkpoint, args.model, args.seed, args.threads, args.limit)
    with closing(Fleet(harbour, _say)) as fleet:
        for figures in heats(fleet, chosen, plan):
            _write(args, figures, fleet, wanted, facts)
    print(_headline(facts, figures))
    print("\n\n".join("\n".join(grid.text()) for grid in grids(figures, fleet, wanted)))
    return 0


def heats(fleet: Fleet, chosen: Sequence[tuple[Peer, Variant]], plan: Plan) -> Iterator[Figures]:
    """One peer after another beside ours, which stays: all of them at once would not fit into a small machine's memory. After
    each, everything that is known by then: a run may take an hour, and what is measured should outlive an interruption."""
    groups = {peer: [variant for other, variant in chosen if other is peer] for peer in dict(chosen)}
    ours = fleet.launch(BRIGADE, groups.pop(BRIGADE, []))
    found: dict[str, dict[str, Measured]] = {}
    for peer, variants in groups.items():
        theirs = fleet.launch(peer, variants)
        if theirs:
            progress = Progress(f"{peer.name}: rounds")
            does = {label: fleet.variants[label].works for label in (*ours, *theirs)}
            found[peer.name] = alternate(ours | theirs, plan, lambda label, cell, does=does: cell.work in does[label], progress)
            progress.close()
            fleet.land(list(theirs))
        yield Figures(found, {label: variant.bits for label, variant in fleet.variants.items()})


def _write(args: argparse.Namespace, figures: Figures, fleet: Fleet, cells: Sequence[Cell], facts: dict[str, Any]) -> None:
    if args.markdown is not None:
        tables = ("\n".join(grid.markdown()) for grid in grids(figures, fleet, cells))
        args.markdown.write_text("\n\n".join([_headline(facts, figures), *tables]) + "\n", encoding="utf-8")
    if args.json is not None:
        write_json(args.json, as_json(figures, fleet, cells, facts))


def _headline(facts: dict[str, Any], figures: Figures) -> str:
    return (
        f"{facts['model']}, random weights {facts['random_weights']}, {facts['threads']} threads, {facts['repeats']} repetitions "
        f"after {facts['warmup']}, in alternation, {facts['date']}, {facts['processor']};\n{company(figures)}"
    )


def _check(args: argparse.Namespace) -> None:
    for name, least in LEAST.items():
        if not least <= getattr(args, name) < math.inf:
            raise ConfigError(f"{name} is {getattr(args, name)}; it must be {least} or more")
    check_threads(args.threads)
    if min(args.batch_sizes) < 1 or max(args.batch_sizes) > 32 or len(set(args.batch_sizes)) < len(args.batch_sizes):
        raise ConfigError(f"batch-sizes is {args.batch_sizes}; give each once, 1 to 32")
    if args.work.exists() and not args.work.is_dir():
        raise ConfigError(f"--work {args.work} is a file; give a folder")
    check_writable(args.json)
    check_writable(args.markdown, args.json)


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
