"""The run behind `brigade bench peers`, from its arguments to its report. What only the command line knows is handed in."""

from __future__ import annotations

import argparse
import datetime
import math
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from benchmarks.peers.alternation import Measured, Plan, alternate
from benchmarks.peers.catalogue import BRIGADE, PEERS, Peer, Variant
from benchmarks.peers.checkpoint import gpt2_config, write_checkpoint
from benchmarks.peers.choice import choose, listing
from benchmarks.peers.figures import Figures
from benchmarks.peers.fleet import Fleet, Harbour
from benchmarks.peers.limits import words
from benchmarks.peers.picture import draw
from benchmarks.peers.report import as_json, grids
from benchmarks.peers.works import Cell, cells
from brigade.backends.cpu.threads import check_threads
from brigade.bench.others import company
from brigade.checkpoint.load import open_model
from brigade.checkpoint.recipes import find_recipe
from brigade.errors import ConfigError
from brigade.output_files import check_outputs, write_file, write_json

LEAST = {"repeats": 1, "warmup": 0, "seed": 0, "limit": 1}


class Progress(Protocol):
    """Shows how far a heat is."""

    def __call__(self, done: int, total: int) -> None: ...

    def close(self) -> None: ...


def run(args: argparse.Namespace, processor: Callable[[], str], progress: Callable[[str], Progress]) -> int:
    """`processor()` describes the machine in a line; `progress(what)` begins to show how far something is."""
    if args.list and args.peers:
        raise ConfigError(f"--list names all peers, {' '.join(args.peers)} or not; drop one of both")
    useless = [name for name in ("--json", "--markdown", "--svg") if args.list and getattr(args, name[2:]) is not None]
    if useless:
        raise ConfigError(f"--list writes no files; drop {' and '.join(useless)}")
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
    folder, checkpoint = _places(args)
    folder.mkdir(parents=True, exist_ok=True)
    if not checkpoint.exists():
        _say("checkpoint: writing")
        write_checkpoint(config, args.seed, checkpoint)
    facts = _facts(args, processor())
    plan = Plan(wanted, args.repeats, args.warmup, config.vocab_size, args.limit)
    harbour = Harbour(folder, checkpoint, args.model, args.seed, args.threads, args.limit)
    figures = None
    with closing(Fleet(harbour, _say)) as fleet:
        try:
            for figures in heats(fleet, chosen, plan, progress):
                _write(args, figures, fleet, wanted, facts | {"finished": False})
        except KeyboardInterrupt:
            if figures is None:
                raise
            facts["interrupted"] = datetime.datetime.now().isoformat(timespec="seconds")
            _report(args, figures, fleet, wanted, facts | {"finished": False})
            raise
        assert figures is not None
        _report(args, figures, fleet, wanted, facts | {"finished": True})
    return 0


def heats(
    fleet: Fleet, chosen: Sequence[tuple[Peer, Variant]], plan: Plan, progress: Callable[[str], Progress] | None = None
) -> Iterator[Figures]:
    """One peer after another beside ours, which stays: all of them at once would not fit into a small machine's memory. After
    each round, everything that is known by then: a run may take an hour, and what is measured should outlive an interruption."""
    groups = {peer: [variant for other, variant in chosen if other is peer] for peer in dict(chosen)}
    ours = fleet.launch(BRIGADE, groups.pop(BRIGADE, []))
    found: dict[str, dict[str, Measured]] = {}

    def figures() -> Figures:
        return Figures(found, {label: variant.bits for label, variant in fleet.variants.items()})

    for peer, variants in groups.items():
        theirs = fleet.launch(peer, variants)
        if theirs:
            shown = None if progress is None else progress(f"{peer.name}: rounds")
            does = {label: fleet.variants[label].works for label in (*ours, *theirs)}
            try:
                for known in alternate(ours | theirs, plan, lambda label, cell, does=does: cell.work in does[label], shown):
                    found[peer.name] = known
                    yield figures()
            finally:
                if shown is not None:
                    shown.close()
            fleet.land(list(theirs))
        else:
            yield figures()


def _report(args: argparse.Namespace, figures: Figures, fleet: Fleet, cells: Sequence[Cell], facts: dict[str, Any]) -> None:
    """On the screen as well, at the end or at an interruption."""
    _write(args, figures, fleet, cells, facts)
    print(_headline(facts, figures))
    print("\n\n".join("\n".join(grid.text()) for grid in grids(figures, fleet, cells)), flush=True)


def _write(args: argparse.Namespace, figures: Figures, fleet: Fleet, cells: Sequence[Cell], facts: dict[str, Any]) -> None:
    if args.markdown is not None:
        tables = ("\n".join(grid.markdown()) for grid in grids(figures, fleet, cells))
        write_file(args.markdown, "\n\n".join([_headline(facts, figures), *tables]) + "\n")
    if args.svg is not None:
        title = f"{facts['model']} on {facts['threads']} threads, {facts['date']}, medians of {facts['repeats']}"
        state = "" if facts["finished"] else "NOT FINISHED; "
        note = "\n".join(filter(None, [f"{state}{facts['processor']}; shorter is faster", words()]))
        write_file(args.svg, draw(figures, cells, title, note))
    if args.json is not None:
        write_json(args.json, as_json(figures, fleet, cells, facts))


def _headline(facts: dict[str, Any], figures: Figures) -> str:
    state = "" if facts["finished"] else "NOT FINISHED: the rounds of a run so far; "
    return (
        f"{state}{facts['model']}, random weights {facts['random_weights']}, {facts['threads']} threads, "
        f"{facts['repeats']} repetitions after {facts['warmup']}, in alternation, {facts['date']}, {facts['processor']}; "
        f"weights, arithmetic and cache of each engine: in the first table;{' ' + words() + ';' if words() else ''}\n"
        f"{company(figures.others(), 'samples')}"
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
    folder, checkpoint = _places(args)
    reads = [find_recipe(args.model), checkpoint, *(folder / name for name in (BRIGADE.name, *PEERS))]
    check_outputs({"--json": args.json, "--markdown": args.markdown, "--svg": args.svg}, reads)


def _places(args: argparse.Namespace) -> tuple[Path, Path]:
    """The folder of everything, and in it the model that peers read."""
    folder = args.work.resolve()
    return folder, folder / f"{open_model(args.model).name}-{args.seed}"


def _facts(args: argparse.Namespace, processor: str) -> dict[str, Any]:
    return {
        "model": args.model, "random_weights": args.seed, "threads": args.threads, "repeats": args.repeats, "warmup": args.warmup,
        "date": datetime.date.today().isoformat(), "python": platform.python_version(), "processor": processor,
    }  # fmt: skip


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
