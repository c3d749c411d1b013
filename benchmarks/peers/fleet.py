"""Every chosen engine in a process of its own, loaded and asleep; and why the others are not there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.catalogue import OURS, Peer, Variant
from benchmarks.peers.conversion import ROOT, converted
from benchmarks.peers.environment import NotPossible, environment
from benchmarks.peers.worker import Worker, WorkerError

Say = Callable[[str], None]


@dataclass
class Fleet:
    workers: dict[str, Worker] = field(default_factory=dict)
    variants: dict[str, Variant] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def sail(self, peer: Peer, variant: Variant, python: Path, request: Mapping[str, Any], log: Path, limit: float) -> None:
        """Start one worker and let it load its model."""
        label = peer.label(variant)
        command = [str(python), "-m", f"benchmarks.peers.workers.{peer.module}"]
        worker = Worker(command, log, peer.run, ROOT)
        try:
            self.about[label] = worker.ask(request, limit)["about"]
        except WorkerError as error:
            worker.close()
            self.skipped[label] = f"not loadable: {error}"
            return
        self.workers[label], self.variants[label] = worker, variant


@dataclass(frozen=True)
class Harbour:
    """Where everything is kept, and what all engines share."""

    folder: Path
    checkpoint: Path
    recipe: str
    seed: int
    threads: int
    limit: float


def assemble(chosen: Sequence[tuple[Peer, Variant]], harbour: Harbour, stack: ExitStack, say: Say) -> Fleet:
    """One after the other, so that nobody loads on a busy machine. `stack` closes what was started, however the run ends."""
    fleet, pythons = Fleet(), _environments({peer.name: peer for peer, _ in chosen}, harbour, say)
    stack.callback(lambda: [worker.close() for worker in fleet.workers.values()])
    for peer, variant in chosen:
        label, python = peer.label(variant), pythons[peer.name]
        if isinstance(python, NotPossible):
            fleet.skipped[label] = str(python)
            continue
        own = harbour.folder / peer.name
        own.mkdir(parents=True, exist_ok=True)
        try:
            say(f"{label}: converting" if variant.model else f"{label}: loading")
            model = converted(peer, variant, python, harbour.checkpoint, own)
        except NotPossible as error:
            fleet.skipped[label] = str(error)
            continue
        settings = dict(variant.settings) | {"recipe": harbour.recipe, "seed": harbour.seed}
        request = {"do": "load", "folder": str(model), "settings": settings, "threads": harbour.threads}
        fleet.sail(peer, variant, python, request, own / f"{variant.name}.log", harbour.limit)
    return fleet


def _environments(peers: Mapping[str, Peer], harbour: Harbour, say: Say) -> dict[str, Path | NotPossible]:
    found: dict[str, Path | NotPossible] = {}
    for name, peer in peers.items():
        if name == OURS:
            found[name] = Path(sys.executable)
            continue
        say(f"{name}: installing")
        try:
            found[name] = environment(peer, harbour.folder / name)
        except NotPossible as error:
            found[name] = error
    return found
