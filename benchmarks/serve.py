"""What `brigade serve` costs beside the bare engine, and how many streams it holds.

    python benchmarks/serve.py                     all of it, with gpt-345m packed to int8
    python benchmarks/serve.py --quick             the embedded model and small numbers: some seconds, to see that it works
    python benchmarks/serve.py cost first          some of it
    python benchmarks/serve.py --model FOLDER      an artifact or a model that is there already

`cost`: 32 streams through a server, and through an engine without one, in alternation: tokens a second as a ratio. `first`: the
time to a first token of a request that is alone, server and engine in alternation. `idle`: a thousand streams that are open and
wait, with one that is served meanwhile: what they take of memory, and of the processor of the thread that answers connections.

The server, the bare engine and the load are a process each. The bare engine's process sleeps while it is not asked.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.peers.worker import Worker  # noqa: E402
from benchmarks.server_process import ServerProcess, free_port, many_sockets  # noqa: E402
from brigade.bench.http_client import Response  # noqa: E402
from brigade.bench.openai_server import OpenAIServer  # noqa: E402
from brigade.bench.serving import Load, Served, drive  # noqa: E402
from brigade.bench.workload import Simulated  # noqa: E402
from brigade.output_files import write_json  # noqa: E402

BRIGADE = [sys.executable, "-m", "brigade.cli.main"]
COST, FIRST = 0.95, 5.0  # bars: a share of the bare engine's tokens a second, and milliseconds
LIMIT = 900.0  # seconds that an answer of the bare engine may take


@dataclass(frozen=True)
class Sizes:
    rounds: int
    streams: int
    prompt: int
    tokens: int
    times: int  # single requests
    idle: int
    seconds: float  # in which idle streams are watched

    @property
    def positions(self) -> int:
        return self.prompt + self.tokens


FULL, QUICK = Sizes(7, 32, 128, 64, 50, 1000, 30.0), Sizes(2, 4, 16, 16, 5, 50, 1.0)


def prompt(number: int, length: int) -> list[int]:
    """Ids that every vocabulary has, other ones for each number."""
    return [(7 * number + 13 * place) % 997 + 3 for place in range(length)]


def verdict(good: bool) -> str:
    return "held" if good else "NOT HELD"


@contextmanager
def server(model: Path | None, folder: Path, batch: int, positions: int) -> Iterator[ServerProcess]:
    port = free_port()
    given = [] if model is None else [str(model)]
    more = ["--port", str(port), "--max-batch-size", str(batch), "--max-model-len", str(positions), "--no-prefix-cache", "--quiet"]
    made = ServerProcess([*BRIGADE, "serve", *given, *more], port, folder / "server.log", limit=LIMIT)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def bare_engine(model: Path | None, folder: Path, batch: int, positions: int) -> Iterator[Worker]:
    options = {"max_batch_size": batch, "max_model_len": positions, "prefix_cache": False}
    settings = {"model": None if model is None else str(model), "options": options}
    made = Worker([sys.executable, "-m", "benchmarks.bare_engine"], folder / "bare.log", cwd=ROOT)
    try:
        made.ask({"do": "load", "folder": "", "settings": settings, "threads": 0}, LIMIT)
        yield made
    finally:
        made.close()


@asynccontextmanager
async def asking(made: ServerProcess):
    one = OpenAIServer(made.address)
    try:
        one.model = (await one.models())[0].name
        yield one
    finally:
        one.close()


async def through(asked: OpenAIServer, prompts: Sequence[list[int]], tokens: int) -> Served:
    requests = [Simulated(number, ids, tokens) for number, ids in enumerate(prompts)]
    served = await drive(asked.ask, requests, Load(clients=len(requests)))
    wrong = [one.error for one in served.timings if one.error is not None]
    if wrong or len(served.good) < len(requests):
        raise SystemExit(f"a request failed: {wrong[0] if wrong else 'it had no tokens'}")
    return served


def without(bare: Worker, prompts: Sequence[list[int]], tokens: int) -> dict[str, Any]:
    return bare.ask({"do": "generate", "prompts": list(prompts), "new_tokens": tokens}, LIMIT)


async def cost(model: Path | None, folder: Path, sizes: Sizes) -> dict[str, Any]:
    """One round of each is not counted; in it, the tokens of both are compared."""
    with (
        server(model, folder, sizes.streams, sizes.positions) as made,
        bare_engine(model, folder, sizes.streams, sizes.positions) as bare,
    ):
        async with asking(made) as asked:
            prompts = [prompt(number, sizes.prompt) for number in range(sizes.streams)]
            body = {"prompt": prompts, "max_tokens": sizes.tokens, "temperature": 0.0, "ignore_eos": True, "return_token_ids": True}
            _, answer = await asked.client.json("POST", "/completions", body)
            if [one["token_ids"] for one in answer["choices"]] != without(bare, prompts, sizes.tokens)["ids"]:
                raise SystemExit("the server's tokens are not the bare engine's")
            rates: dict[str, list[float]] = {"bare": [], "server": []}
            load, whole = [], sizes.streams * sizes.tokens
            for turn in range(sizes.rounds):
                for name in sorted(rates, reverse=turn % 2 == 1):
                    own, begun = time.process_time(), time.perf_counter()
                    if name == "bare":
                        rates[name].append(whole / without(bare, prompts, sizes.tokens)["seconds"])
                    else:
                        rates[name].append(whole / (await through(asked, prompts, sizes.tokens)).seconds)
                        load.append((time.process_time() - own) / (time.perf_counter() - begun))
    shares = [a / b for a, b in zip(rates["server"], rates["bare"], strict=True)]
    share = statistics.median(shares)
    print(
        f"cost: {sizes.streams} streams, {sizes.prompt} ids in, {sizes.tokens} out, {sizes.rounds} rounds: {share:.1%} of the bare "
        f"engine's {statistics.median(rates['bare']):.0f} tokens per second ({min(shares):.1%} to {max(shares):.1%}), bar "
        f"{COST:.0%}: {verdict(share >= COST)}; the load took {statistics.median(load):.1%} of a processor",
        flush=True,
    )
    return {"share": share, "shares": shares, "tokens_per_second": rates, "load": load}


async def first(model: Path | None, folder: Path, sizes: Sizes) -> dict[str, Any]:
    with (
        server(model, folder, sizes.streams, sizes.positions) as made,
        bare_engine(model, folder, sizes.streams, sizes.positions) as bare,
    ):
        async with asking(made) as asked:
            times: dict[str, list[float]] = {"bare": [], "server": []}
            for turn in range(-2, sizes.times):  # two are not counted
                found = {}
                for name in sorted(times, reverse=turn % 2 == 1):
                    ids = [prompt(turn + 2, 8)]
                    if name == "bare":
                        found[name] = without(bare, ids, 1)["first"]
                    else:
                        found[name] = (await through(asked, ids, 1)).timings[0].first
                if turn >= 0:
                    for name, seconds in found.items():
                        times[name].append(seconds)
    middle = {name: 1e3 * statistics.median(found) for name, found in times.items()}
    more = middle["server"] - middle["bare"]
    print(
        f"first: a first token after {middle['server']:.2f} ms, {more:.2f} ms more than the bare engine's {middle['bare']:.2f} ms, "
        f"medians of {sizes.times}, bar {FIRST:g} ms: {verdict(more <= FIRST)}",
        flush=True,
    )
    return {"more_ms": more, "median_ms": middle, "seconds": times}


class Watch:
    """What a server took while nobody asked anything new. `said`: chunks of the stream that is served."""

    def __init__(self, made: ServerProcess) -> None:
        self._made, self.said = made, 0

    async def look(self, seconds: float) -> dict[str, float]:
        before, said, begun = self._made.loop_busy(), self.said, time.perf_counter()
        await asyncio.sleep(seconds)
        took = time.perf_counter() - begun
        share = (self._made.loop_busy() - before) / took
        return {"share": share, "tokens_per_second": (self.said - said) / took, "memory": self._made.memory()}

    async def hear(self, response: Response) -> None:
        while events := await response.events():
            self.said += len(events)


async def idle(model: Path | None, folder: Path, sizes: Sizes) -> dict[str, Any]:
    """The server computes one request at a time, and a long one holds that place until the end."""
    positions = 1024
    with server(model, folder, 1, positions) as made:
        async with asking(made) as asked:
            watch = Watch(made)
            long = asked.body(Simulated(0, prompt(0, 8), positions - 16)) | {"n": 64}  # one after the other, as there is one place
            async with asked.client.request("POST", "/completions", long) as response:
                await response.events()
                serving = asyncio.create_task(watch.hear(response))
                alone = await watch.look(sizes.seconds)
                waiting = [_Waiting(asked) for _ in range(sizes.idle)]
                begun = time.perf_counter()
                tasks = [asyncio.create_task(one.run(number)) for number, one in enumerate(waiting)]
                with suppress(TimeoutError):
                    async with asyncio.timeout(60):
                        for one in waiting:
                            await one.is_open.wait()
                took = time.perf_counter() - begun
                beside = await watch.look(sizes.seconds)
                held = sum(one.is_open.is_set() and not one.tokens for one in waiting)
                serving.cancel()
                with suppress(asyncio.CancelledError):
                    await serving
            begun = time.perf_counter()  # the long one's connection is closed: its place is free
            await asyncio.wait(tasks, timeout=600)
            ended = time.perf_counter() - begun
            whole = sum(one.tokens == 2 for one in waiting)
    each = (beside["memory"] - alone["memory"]) / sizes.idle
    more, (before, now) = beside["share"] - alone["share"], (one["tokens_per_second"] for one in (alone, beside))
    print(
        f"idle: {held} of {sizes.idle} streams open after {took:.1f} s, beside one that is served. Each takes {each / 1e3:.1f} kB "
        f"(the server has {beside['memory'] / 1e6:.0f} MB), and all {more:+.1%} of a processor in the thread that answers. The "
        f"served one has {now:.1f} tokens per second, and {before:.1f} before. {whole} were answered {ended:.1f} s after its end: "
        f"{verdict(held == whole == sizes.idle)}",
        flush=True,
    )
    return {
        "held": held, "answered": whole, "opened_s": took, "bytes_each": each, "alone": alone, "beside": beside, "ended_s": ended,
    }  # fmt: skip


class _Waiting:
    """A stream that waits for its turn."""

    def __init__(self, asked: OpenAIServer) -> None:
        self._asked, self.is_open, self.tokens = asked, asyncio.Event(), 0

    async def run(self, number: int) -> None:
        body = self._asked.body(Simulated(number, prompt(number, 8), 2))
        async with self._asked.client.request("POST", "/completions", body) as response:
            if response.status != 200:
                raise SystemExit(f"a stream was answered with {response.status}: {(await response.read())[:300]!r}")
            self.is_open.set()
            while events := await response.events():
                self.tokens += sum(b'"completion_tokens":2' in one and 2 for one in events)


PARTS = {"cost": cost, "first": first, "idle": idle}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="the embedded model, and small numbers where none are given")
    parser.add_argument("--model", type=Path, help="(default: gpt-345m of random weights, packed to int8 for this run)")
    for name, kind in Sizes.__annotations__.items():
        what = f"(default {getattr(FULL, name)}; --quick: {getattr(QUICK, name)})"
        parser.add_argument(f"--{name}", type=float if kind == "float" else int, metavar="N", help=what)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    unknown = [part for part in args.parts if part not in PARTS]
    if unknown:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    if args.quick and args.model is not None:
        parser.error("--quick takes the embedded model; drop --model")
    standard = QUICK if args.quick else FULL
    given = {name: getattr(args, name) for name in Sizes.__annotations__}
    sizes = Sizes(**{name: getattr(standard, name) if value is None else value for name, value in given.items()})
    if min(vars(sizes).values()) <= 0:
        parser.error("sizes must be above 0")
    many_sockets(2 * sizes.idle + 200)
    with tempfile.TemporaryDirectory() as name:
        folder, model = Path(name), args.model
        if model is None and not args.quick:
            model = folder / "345m"
            packed = ["export", "gpt-345m", str(model), "--random-weights", "0", "--quant", "int8", "--dtype", "bfloat16"]
            subprocess.run([*BRIGADE, *packed], check=True, cwd=ROOT)
        found = {part: asyncio.run(PARTS[part](model, folder, sizes)) for part in args.parts or PARTS}
    if args.json is not None:
        write_json(args.json, {"model": str(args.model or ("mini" if args.quick else "gpt-345m int8")), **vars(sizes), **found})


if __name__ == "__main__":
    main()
