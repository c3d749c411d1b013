"""Engines in processes of their own, loaded and asleep; and why others are not there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.catalogue import OURS, Peer, Variant
from benchmarks.peers.conversion import ROOT, converted
from benchmarks.peers.environment import NotPossible, environment
from benchmarks.peers.worker import Worker, WorkerError

Say = Callable[[str], None]


@dataclass(frozen=True)
class Harbour:
    """Where everything is kept, and what all engines share."""

    folder: Path
    checkpoint: Path
    recipe: str
    seed: int
    threads: int
    limit: float


@dataclass
class Fleet:
    """Those that loaded are in `workers` until their peer's heat is over; what was learnt of them stays."""

    harbour: Harbour
    say: Say
    workers: dict[str, Worker] = field(default_factory=dict)
    variants: dict[str, Variant] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def launch(self, peer: Peer, variants: Sequence[Variant]) -> dict[str, Worker]:
        """One after the other, so that nobody loads on a busy machine. What cannot be had is skipped with its reason."""
        labels = [peer.label(variant) for variant in variants]
        try:
            python = self._python(peer)
        except NotPossible as error:
            self.skipped |= dict.fromkeys(labels, str(error))
            return {}
        for label, variant in zip(labels, variants, strict=True):
            try:
                self._sail(peer, variant, python)
            except (NotPossible, WorkerError) as error:
                self.skipped[label] = str(error)
        return {label: self.workers[label] for label in labels if label in self.workers}

    def land(self, labels: Sequence[str]) -> None:
        for label in labels:
            self.workers.pop(label).close()

    def close(self) -> None:
        self.land(list(self.workers))

    def _python(self, peer: Peer) -> Path:
        if peer.name == OURS:
            return Path(sys.executable)
        self.say(f"{peer.name}: installing")
        return environment(peer, self.harbour.folder / peer.name)

    def _sail(self, peer: Peer, variant: Variant, python: Path) -> None:
        harbour, label, own = self.harbour, peer.label(variant), self.harbour.folder / peer.name
        own.mkdir(parents=True, exist_ok=True)
        if variant.model:
            self.say(f"{label}: converting")
        model = converted(peer, variant, python, harbour.checkpoint, own)
        self.say(f"{label}: loading")
        settings: dict[str, Any] = dict(variant.settings) | {"recipe": harbour.recipe, "seed": harbour.seed}
        command = [str(python), "-m", f"benchmarks.peers.workers.{peer.module}"]
        variables = {"OMP_NUM_THREADS": str(harbour.threads)} | dict(peer.run)
        worker = Worker(command, own / f"{variant.name}.log", variables, ROOT)
        self.workers[label], self.variants[label] = worker, variant
        request = {"do": "load", "folder": str(model), "settings": settings, "threads": harbour.threads}
        try:
            self.about[label] = worker.ask(request, harbour.limit)["about"]
        except WorkerError as error:
            self.land([label])
            raise NotPossible(f"not loadable: {error}") from None
