"""Requests over a wire, as users send them: when each token came, and how many requests were as fast as they should be.

`drive` knows nothing of what it asks: whoever is measured gives a function that yields how many tokens came.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from brigade.bench.report import PERCENTILES, percentile
from brigade.bench.workload import Simulated
from brigade.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Total:
    """How many tokens an answer had, where that is known at its end alone."""

    tokens: int


Ask = Callable[[Simulated], AsyncIterator[int | Total]]  # how many tokens came; a `Total` may follow


@dataclass(frozen=True, slots=True)
class Load:
    """Either `clients`, each of which sends its next request when the last has ended (a closed loop), or `rate` requests a second
    whatever becomes of them: at random moments (`poisson`), or at `fixed` distances."""

    clients: int | None = None
    rate: float | None = None
    arrivals: Literal["poisson", "fixed"] = "poisson"
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.clients is None) == (self.rate is None):
            raise ConfigError("clients and rate are two kinds of load; give one of them")
        if self.clients is not None and self.clients < 1:
            raise ConfigError(f"clients is {self.clients}; it must be 1 or more")
        if self.rate is not None and not 0 < self.rate <= 1e6:
            raise ConfigError(f"rate is {self.rate}; it must be a number of requests a second, above 0")

    def __str__(self) -> str:
        if self.clients is not None:
            return f"{self.clients} clients" if self.clients > 1 else "1 client"
        return f"{self.rate:g} requests/s, {self.arrivals}"

    def moments(self, count: int) -> list[float]:
        assert self.rate is not None
        if self.arrivals == "fixed":
            return [number / self.rate for number in range(count)]
        dice, now, found = random.Random(self.seed), 0.0, []
        for _ in range(count):
            found.append(now)
            now += dice.expovariate(self.rate)
        return found


@dataclass(frozen=True, slots=True)
class Timing:
    """Of one request, in seconds from its sending: when each of its tokens came. Tokens that came together have one time.
    `arrivals`: how many times some came."""

    tokens: Sequence[float]
    end: float
    error: str | None = None
    arrivals: int = 0

    @property
    def first(self) -> float:
        return self.tokens[0]

    @property
    def gaps(self) -> list[float]:
        return [after - before for before, after in zip(self.tokens, self.tokens[1:], strict=False)]


@dataclass(frozen=True, slots=True)
class Served:
    """One load. `seconds`: from the first request's sending to the last one's end."""

    load: Load
    timings: Sequence[Timing]
    seconds: float

    @property
    def good(self) -> list[Timing]:
        return [one for one in self.timings if one.error is None and one.tokens]

    @property
    def tokens(self) -> int:
        return sum(len(one.tokens) for one in self.timings)

    def values(self, what: str) -> list[float]:
        if what == "inter-token":
            return [gap for one in self.good for gap in one.gaps]
        return [one.first if what == "first token" else one.end for one in self.good]

    def percentiles(self, what: str) -> dict[str, float]:
        values = self.values(what)
        return {f"p{p}": percentile(values, p) for p in PERCENTILES} if values else {}

    def goodput(self, first: float | None, between: float | None) -> float | None:
        """Requests a second whose first token came within `first` seconds and whose others, on the average, within `between`."""
        if first is None and between is None:
            return None
        kept = 0
        for one in self.good:
            mean = sum(one.gaps) / len(one.gaps) if one.gaps else 0.0
            kept += (first is None or one.first <= first) and (between is None or mean <= between)
        return kept / self.seconds


KINDS = ("first token", "inter-token", "whole request")


async def drive(ask: Ask, requests: Sequence[Simulated], load: Load) -> Served:
    timings: list[Timing | None] = [None] * len(requests)
    begun = time.perf_counter()

    async def one(number: int) -> None:
        timings[number] = await _time(ask, requests[number])

    if load.clients is not None:
        left = iter(range(len(requests)))

        async def client() -> None:
            for number in left:
                await one(number)

        await asyncio.gather(*(client() for _ in range(load.clients)))
    else:
        tasks = []
        for number, moment in enumerate(load.moments(len(requests))):
            await asyncio.sleep(max(begun + moment - time.perf_counter(), 0))
            tasks.append(asyncio.create_task(one(number)))
        await asyncio.gather(*tasks)
    return Served(load, [one for one in timings if one is not None], time.perf_counter() - begun)


async def _time(ask: Ask, request: Simulated) -> Timing:
    begun, came, total, error = time.perf_counter(), list[tuple[float, int]](), None, None
    try:
        async for count in ask(request):
            if isinstance(count, Total):
                total = count.tokens
            else:
                came.append((time.perf_counter() - begun, count))
    except Exception as failure:
        error = f"{type(failure).__name__}: {failure}"
    end, moments = time.perf_counter() - begun, spread(came, total)
    tokens = [moment for moment, count in moments for _ in range(count)]
    return Timing(tokens, end, error, sum(count > 0 for _, count in moments))


def spread(came: Sequence[tuple[float, int]], total: int | None) -> Sequence[tuple[float, int]]:
    """The moments at which tokens came, with their numbers made to add up to `total`: what came is taken as all of one size. The
    first moment keeps its first token."""
    if total is None or not came or sum(count for _, count in came) == total:
        return came
    edges = [-(-place * total // len(came)) for place in range(len(came) + 1)]
    return [(moment, end - begin) for (moment, _), begin, end in zip(came, edges, edges[1:], strict=False)]


def as_json(served: Served, first: float | None, between: float | None) -> dict[str, Any]:
    return {
        "load": str(served.load), "seconds": served.seconds, "requests": len(served.timings), "tokens": served.tokens,
        "tokens_per_second": served.tokens / served.seconds, "requests_per_second": len(served.good) / served.seconds,
        "goodput": served.goodput(first, between), "errors": [one.error for one in served.timings if one.error is not None],
        **{kind.replace(" ", "_").replace("-", "_"): served.percentiles(kind) for kind in KINDS},
        "timings": [
            {"tokens": list(one.tokens), "arrivals": one.arrivals, "end": one.end, "error": one.error} for one in served.timings
        ],
    }  # fmt: skip


def table(all_served: Sequence[Served], first: float | None, between: float | None) -> list[list[str]]:
    """A head, and a line for each load; times in milliseconds."""
    shares = [f"p{p}" for p in PERCENTILES]
    heads = [f"{kind}: {p}" if p == shares[0] else p for kind in KINDS for p in shares]
    head = ["load", "tokens/s", "requests/s", *heads, "failed"]
    if first is not None or between is not None:
        head.append("goodput/s")
    lines = [head]
    for served in all_served:
        line = [str(served.load), f"{served.tokens / served.seconds:.1f}", f"{len(served.good) / served.seconds:.2f}"]
        for kind in KINDS:
            found = served.percentiles(kind)
            line += [f"{1e3 * found[p]:.1f}" if found else "-" for p in shares]
        line.append(str(len(served.timings) - len(served.good)))
        goodput = served.goodput(first, between)
        lines.append(line if goodput is None else [*line, f"{goodput:.2f}"])
    return lines
