"""What a coordinator costs, and how fast it is when something dies.

    python benchmarks/fleet.py                     all of it
    python benchmarks/fleet.py routing failover    some of it

`cost`: 32 streams of the 345M int8 artifact through coordinator and client beside the bare engine, alternating, and the time to a
first token. `routing`: how many tokens a second one coordinator passes on, with replicas that compute nothing, and 10,000 requests
open at once. `journal`: acceptances a second with each kind of journal. `failover`: from the kill of a replica to the next token of
its stream, less the time that the prompt takes again.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import psutil  # noqa: E402
import zmq  # noqa: E402

from benchmarks.processes import Coordinator, fleet  # noqa: E402
from brigade.coordinator.messages import (  # noqa: E402
    PROTOCOL,
    Abort,
    Accepted,
    Acknowledge,
    Alive,
    Ask,
    Beat,
    Frame,
    Hello,
    Identity,
    Piece,
    Place,
    Register,
    Said,
    Submit,
    Withdraw,
    decode_to_client,
    decode_to_replica,
    encode,
)

STREAMS, PROMPT, TOKENS = 32, 128, 32
MODEL = ["--max-batch-size", "32", "--max-model-len", "256", "--no-prefix-cache"]


def verdict(good: bool) -> str:
    return "held" if good else "NOT HELD"


# What it costs.


def cost(rounds: int) -> None:
    from brigade.api.llm import LLM
    from brigade.client import Client
    from brigade.engine.sampling.params import SamplingParams

    prompts = [[(7 * i + 13 * j) % 50_000 for j in range(PROMPT)] for i in range(STREAMS)]
    params = SamplingParams(max_tokens=TOKENS, temperature=0.0, ignore_eos=True)
    first = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder) / "345m"
        command = [sys.executable, "-m", "brigade.cli.main"]
        subprocess.run([*command, "export", "gpt-345m", artifact, "--random-weights", "0", "--quant", "int8"], check=True)
        coordinator = Coordinator(Path(folder) / "journal", [])
        where = ["--connect", f"tcp://127.0.0.1:{coordinator.ports[1]}", "--model", str(artifact), *MODEL]
        replica = subprocess.Popen([*command, "replica", *where])
        bare = LLM(artifact, max_batch_size=32, max_model_len=256, prefix_cache=False)
        client = Client(f"tcp://127.0.0.1:{coordinator.ports[0]}", bare.name)
        try:
            asked: dict[str, Any] = {"bare": bare, "through": client}
            said = {name: [one.token_ids for one in who.generate(prompts, params)] for name, who in asked.items()}
            assert said["bare"] == said["through"], "the tokens differ"
            seconds: dict[str, list[float]] = {"bare": [], "through": []}
            for turn in range(rounds):
                for name in sorted(asked, reverse=turn % 2 == 1):
                    seconds[name].append(_took(lambda name=name: list(asked[name].stream(prompts, params))))
            shares = [a / b for a, b in zip(seconds["bare"], seconds["through"], strict=True)]
            share = statistics.median(shares)
            print(
                f"cost: {STREAMS} streams of 345M int8, {rounds} rounds: {share:.1%} of the bare engine's tokens per second "
                f"({min(shares):.1%} to {max(shares):.1%}), bar 95%: {verdict(share >= 0.95)}"
            )
            times: dict[str, list[float]] = {"bare": [], "through": []}
            for turn in range(50):
                for name in sorted(asked, reverse=turn % 2 == 1):
                    times[name].append(_took(lambda name=name: next(asked[name].stream([prompts[0][:8]], first))))
            more = 1000 * (statistics.median(times["through"]) - statistics.median(times["bare"]))
            print(f"cost: time to a first token: {more:.2f} ms more, medians of 50, bar 3 ms: {verdict(more <= 3)}", flush=True)
        finally:
            client.close()
            bare.close()
            replica.kill()
            replica.wait()
            coordinator.kill()


def _took(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


# How much it passes on.


class FakeReplica(threading.Thread):
    """Says a token of everything at each turn, of many requests in one frame, and waits until the client has heard enough of it."""

    def __init__(self, address: str, name: str, capacity: int, most: int, ahead: threading.Semaphore) -> None:
        super().__init__(daemon=True)
        self.most, self.ahead, self.over = most, ahead, False
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.SNDHWM, 0)
        self.socket.connect(address)
        self.socket.send(encode(Register(PROTOCOL, name, "fake", Identity("n", "f", 10**6), capacity)))
        self.works: dict[int, int] = {}

    def run(self) -> None:
        beat = time.monotonic()
        for turn in itertools.count(1):
            while self.socket.poll(0 if self.works and self.most else 50):
                message = decode_to_replica(self.socket.recv())
                if isinstance(message, Place):
                    self.works[message.placement] = 0
                elif isinstance(message, Withdraw):
                    self.works.pop(message.placement, None)
            if self.over:
                return self.socket.close(0)
            if time.monotonic() - beat > 1:
                beat = time.monotonic()
                self.socket.send(encode(Beat(turn)))
            if not self.works or not self.most or not self.ahead.acquire(timeout=0.05):
                continue
            pieces = []
            for placement, start in list(self.works.items()):
                end = "length" if start + 1 == self.most else None
                pieces.append(Piece(placement, 0, start, [start], "a", end))
                self.works[placement] = start + 1
                if end:
                    del self.works[placement]
            self.socket.send(encode(Frame(turn, pieces)))


class FakeClient:
    def __init__(self, address: str) -> None:
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.SNDHWM, 0)
        self.socket.setsockopt(zmq.RCVHWM, 0)
        self.socket.connect(address)
        self.socket.send(encode(Hello(PROTOCOL, os.urandom(8))))
        decode_to_client(self.socket.recv())
        self.tokens = self.accepted = self.ended = 0
        self.numbers = itertools.count(1)
        self.alive = time.monotonic()

    def submit(self, count: int, prompt: Any) -> None:
        for number in itertools.islice(self.numbers, count):
            self.socket.send(encode(Submit(number, Ask("fake", prompt, params={"max_tokens": 64}))))

    def hear(self, what: str, most: int, heard: Callable[[], None] = lambda: None, seconds: float = 120.0) -> None:
        """Until so many are `accepted` or `ended`."""
        end = time.monotonic() + seconds
        while getattr(self, what) < most:
            if time.monotonic() > end:
                raise SystemExit("the coordinator takes too long")
            if time.monotonic() - self.alive > 1:
                self.alive = time.monotonic()
                self.socket.send(encode(Alive()))
            if not self.socket.poll(100):
                continue
            message = decode_to_client(self.socket.recv())
            if isinstance(message, Said):
                heard()
                for piece in message.pieces:
                    self.tokens += len(piece.token_ids)
                    if piece.finish:
                        self.ended += 1
                        self.socket.send(encode(Acknowledge(piece.number)))
            elif isinstance(message, Accepted):
                self.accepted += 1


def routing(rounds: int) -> None:
    """Requests of 64 tokens, 256 at once; and then 10,000 that stay open."""
    with tempfile.TemporaryDirectory() as folder:
        coordinator = Coordinator(Path(folder) / "journal", [])
        process = psutil.Process(coordinator.process.pid)
        try:
            ahead = threading.Semaphore(4)
            replica = FakeReplica(f"tcp://127.0.0.1:{coordinator.ports[1]}", "busy", 256, 64, ahead)
            replica.start()
            client = FakeClient(f"tcp://127.0.0.1:{coordinator.ports[0]}")
            rates, shares = [], []
            for _ in range(rounds):
                count, before, busy = 2048, client.ended, sum(process.cpu_times()[:2])
                tokens, begun = client.tokens, time.perf_counter()
                client.submit(count, "a prompt of some words " * 8)
                client.hear("ended", before + count, ahead.release)
                seconds = time.perf_counter() - begun
                rates.append((client.tokens - tokens) / seconds)
                shares.append((client.tokens - tokens) / (sum(process.cpu_times()[:2]) - busy))
            rate, each = statistics.median(rates), statistics.median(shares)
            print(
                f"routing: {rate:,.0f} tokens a second, {each:,.0f} for each second of its processor, journal on, bar 20,000: "
                f"{verdict(rate >= 20_000)}"
            )
            replica.over = True
            replica.join()
            before = process.memory_info().rss
            idle = FakeReplica(f"tcp://127.0.0.1:{coordinator.ports[1]}", "idle", 10_000, 0, ahead)
            idle.start()
            begun, accepted = time.perf_counter(), client.accepted
            client.submit(10_000, "a prompt of some words " * 8)
            client.hear("accepted", accepted + 10_000)
            took = time.perf_counter() - begun
            while len(idle.works) < 10_000 and time.perf_counter() - begun < 60:
                time.sleep(0.01)
            busy = sum(process.cpu_times()[:2])
            time.sleep(3)
            idle_share = (sum(process.cpu_times()[:2]) - busy) / 3
            memory = (process.memory_info().rss - before) / 1e6
            print(
                f"routing: 10,000 requests open after {took:.1f} s, {len(idle.works):,} placed; they take {memory:.0f} MB and "
                f"{idle_share:.1%} of a processor while nothing happens: {verdict(len(idle.works) == 10_000)}",
                flush=True,
            )
        finally:
            coordinator.kill()


def journal(rounds: int) -> None:
    """Acceptances a second, each of them asked for after the one before was accepted, and 1,000 at once."""
    for kind in ("off", "normal", "full"):
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            more = [] if kind == "off" else ["--journal-sync", kind]
            coordinator = Coordinator("off" if kind == "off" else Path(folder) / "journal", more)
            try:
                client = FakeClient(f"tcp://127.0.0.1:{coordinator.ports[0]}")
                alone, together = [], []
                for _ in range(rounds):
                    begun = time.perf_counter()
                    for _ in range(100):
                        client.submit(1, "a prompt")
                        client.hear("accepted", client.accepted + 1)
                    alone.append((time.perf_counter() - begun) / 100)
                    begun, accepted = time.perf_counter(), client.accepted
                    client.submit(1000, "a prompt")
                    client.hear("accepted", accepted + 1000)
                    together.append((time.perf_counter() - begun) / 1000)
                    for number in range(1, next(client.numbers)):
                        client.socket.send(encode(Abort(number)))
                print(
                    f"journal {kind}: a request is accepted after {1e3 * statistics.median(alone):.2f} ms, "
                    f"1,000 at once after {1e6 * statistics.median(together):.0f} us each",
                    flush=True,
                )
            finally:
                coordinator.kill()


# When something dies.


def failover(rounds: int) -> None:
    from brigade.engine.sampling.params import SamplingParams

    with fleet(2) as made:
        gaps, more = [], []
        params = SamplingParams(max_tokens=200, temperature=0.0, ignore_eos=True)
        for _ in range(rounds):
            made.wait_for(2)
            stream, heard = made.client.stream("def fibonacci(n):", params), []
            for delta in stream:
                heard += delta.token_ids
                if len(heard) >= 64:
                    break
            (victim,) = [one.name for one in made.client.status().replicas if one.running]
            killed = time.perf_counter()
            made.nest.kill(made.nest.named(victim))
            known = time.perf_counter()
            for _ in stream:  # what was said before the kill is no answer to it
                now = time.perf_counter()
                if now - known > 0.02:
                    break
                known = now
            gap = now - killed
            stream.close()
            begun = time.perf_counter()
            ids = [5] * (8 + len(heard))
            next(made.client.stream([ids], SamplingParams(max_tokens=1, temperature=0.0)))
            again = time.perf_counter() - begun
            gaps.append(gap)
            more.append(gap - again)
            made.nest.start()
        print(
            f"failover: {1e3 * statistics.median(gaps):.0f} ms from the kill to the next token, "
            f"{1e3 * statistics.median(more):.0f} ms (at most {1e3 * max(more):.0f}) beyond the prompt's time, {rounds} kills, "
            f"bar 300 ms: {verdict(max(more) <= 0.3)}",
            flush=True,
        )


PARTS: dict[str, tuple[Callable[[int], None], int]] = {
    "cost": (cost, 7), "routing": (routing, 5), "journal": (journal, 3), "failover": (failover, 20),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--rounds", type=int, help="of each part (default: its own)")
    args = parser.parse_args()
    unknown = [part for part in args.parts if part not in PARTS]
    if unknown:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    for part in args.parts or PARTS:
        measure, rounds = PARTS[part]
        measure(args.rounds or rounds)


if __name__ == "__main__":
    main()
