"""What driving several servers in turn has found, and the tables of it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.peers.figures import is_ours
from benchmarks.peers.grid import Grid
from brigade.bench.report import percentile
from brigade.bench.serving import Served, as_json

NONE = "-"
WIDTHS = ((16,), (8, 4))  # bits that are compared with each other


@dataclass(frozen=True)
class Metric:
    """One figure of a server with so many clients. `is_rate`: more is better."""

    name: str
    kind: str  # of `Served.values`; "" for a rate
    share: int = 0
    is_rate: bool = False


METRICS = (
    Metric("tokens/s", "", is_rate=True),
    Metric("first token p50, ms", "first token", 50),
    Metric("inter-token p99, ms", "inter-token", 99),
)


@dataclass
class ServerFigures:
    """`rounds`: of every server and number of clients; the k-th round of one has the requests of the k-th of every other."""

    bits: Mapping[str, int]
    rounds: dict[tuple[str, int], list[Served]] = field(default_factory=dict)
    failures: dict[tuple[str, int], str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    same: dict[str, float] = field(default_factory=dict)  # the share of first tokens that are as ours are in 16 bits
    memory: dict[str, int] = field(default_factory=dict)  # bytes, after all

    def value(self, metric: Metric, label: str, clients: int) -> float | None:
        """A rate: the median of its rounds. A time: of all requests of all rounds, in milliseconds."""
        rounds = self.rounds.get((label, clients), [])
        if metric.is_rate:
            return statistics.median(one.tokens / one.seconds for one in rounds) if rounds else None
        values = [value for one in rounds for value in one.values(metric.kind)]
        return 1e3 * percentile(values, metric.share) if values else None

    def together(self, label: str, clients: int) -> float | None:
        """How many tokens one chunk had, on average: those after its first count as no time between tokens."""
        timings = [one for served in self.rounds.get((label, clients), []) for one in served.good]
        return sum(len(one.tokens) for one in timings) / sum(one.arrivals for one in timings) if timings else None

    def best(self, metric: Metric, clients: int, bits: Sequence[int], ours: bool) -> str | None:
        known = {
            label: value
            for label, width in self.bits.items()
            if width in bits and is_ours(label) == ours and (value := self.value(metric, label, clients)) is not None
        }
        return (max if metric.is_rate else min)(known, key=known.__getitem__) if known else None

    def times(self, metric: Metric, ours: str | None, peer: str | None, clients: int) -> float | None:
        """How many times as good ours is: above 1 where it is ahead. Of a rate, the median of the rounds' own ratios."""
        if ours is None or peer is None:
            return None
        if metric.is_rate:
            pairs = zip(self.rounds[ours, clients], self.rounds[peer, clients], strict=False)
            return statistics.median((a.tokens / a.seconds) / (b.tokens / b.seconds) for a, b in pairs)
        own, theirs = self.value(metric, ours, clients), self.value(metric, peer, clients)
        return theirs / own if own and theirs is not None else None


def grids(figures: ServerFigures, all_clients: Sequence[int]) -> list[Grid]:
    found = [_about(figures), *(_absolute(figures, clients) for clients in all_clients)]
    found += [_verdicts(figures, all_clients), _missing(figures)]
    return [grid for grid in found if grid.rows]


def _about(figures: ServerFigures) -> Grid:
    rows = []
    for label, bits in figures.bits.items():
        same, memory = figures.same.get(label), figures.memory.get(label)
        shown = NONE if memory is None else f"{memory / 2**20:.0f}"
        rows.append([label, str(bits), NONE if same is None else f"{same:.0%}", shown])
    return Grid("Servers", ["server", "bits", "first tokens as ours in 16 bits", "memory at the end, MiB"], rows)


def _absolute(figures: ServerFigures, clients: int) -> Grid:
    rows = []
    for label in figures.bits:
        values = [figures.value(metric, label, clients) for metric in METRICS]
        if any(value is not None for value in values):
            together = figures.together(label, clients)
            rows.append([label, *(NONE if value is None else f"{value:.1f}" for value in (*values, together))])
    title = "1 client" if clients == 1 else f"{clients} clients"
    return Grid(title, ["server", *(metric.name for metric in METRICS), "tokens that came together"], rows)


def _verdicts(figures: ServerFigures, all_clients: Sequence[int]) -> Grid:
    rows = []
    for bits in WIDTHS:
        for clients in all_clients:
            for metric in METRICS:
                ours, peer = (figures.best(metric, clients, bits, mine) for mine in (True, False))
                times = figures.times(metric, ours, peer, clients)
                if times is not None:
                    said = "ahead" if times > 1 else "behind"
                    rows.append(
                        ["/".join(map(str, bits)), str(clients), metric.name, ours or NONE, peer or NONE, f"{times:.2f}", said]
                    )
    head = ["bits", "clients", "figure", "our best", "best peer", "times as good", ""]
    return Grid("Our best beside the best peer with the same bits", head, rows)


def _missing(figures: ServerFigures) -> Grid:
    rows = [[label, reason] for label, reason in figures.skipped.items()]
    rows += [[label, f"{clients} clients: {reason}"] for (label, clients), reason in figures.failures.items()]
    return Grid("Skipped, and why", ["server", "reason"], rows)


def report(figures: ServerFigures, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Every request's times, so that other questions can be asked of the same run."""
    loads = [
        {"server": label, "clients": clients, "round": number, **as_json(served, None, None)}
        for (label, clients), rounds in figures.rounds.items()
        for number, served in enumerate(rounds)
    ]
    failures = [{"server": label, "clients": clients, "reason": why} for (label, clients), why in figures.failures.items()]
    return {
        **facts, "bits": dict(figures.bits), "first_tokens_as_ours": figures.same, "memory": figures.memory,
        "skipped": figures.skipped, "failures": failures, "loads": loads,
    }  # fmt: skip
