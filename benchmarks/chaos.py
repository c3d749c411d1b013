"""Chaos: replicas and the coordinator are killed, stopped, continued and cut off while streams run. No token may change.

    python benchmarks/chaos.py --faults 1000
    python benchmarks/chaos.py --seed 17 --faults 40      one run, as it was

Every run has three replicas of the embedded model behind a coordinator with a journal, and one client with 200 streams of mixed
parameters at a time. All sockets go through a proxy that can cut them. What each stream says is compared with what the model says
undisturbed. Replicas are forked from a process that has imported everything, so that killing one costs no more than loading it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

STREAMS, REPLICAS, RUN = 200, 3, 40  # at a time; at a time; faults of a run
SETTINGS: dict[str, Any] = {"max_batch_size": 16, "kv_blocks": 96, "block_size": 32, "max_step_tokens": 256, "threads": 1}
TIMES = ["--replica-timeout", "1", "--client-timeout", "5", "--client-grace", "120", "--restart-grace", "120"]
WORDS = ("def ", "import os", "return", "for x in", "class A", "# größer als ✓", "\n    ", "é", "日本", "self.")
KINDS = ("kill", "kill", "kill", "stop", "coordinator", "both", "cut clients", "cut replicas")


def end_with_parent() -> None:
    """This process does not outlive the one that made it, however that ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Proxy:
    """Passes bytes on between connections to itself and to `target`; `cut` ends all of them, without a word."""

    def __init__(self, target: int) -> None:
        self.target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        for pair in list(self._pairs):
            for one in pair:
                with suppress(OSError):
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # what waits is lost
                    one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listening.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:  # there is no coordinator just now
                near.close()
                continue
            threading.Thread(target=self._pass, args=(near, far), daemon=True).start()

    def _pass(self, near: socket.socket, far: socket.socket) -> None:
        pair = (near, far)
        self._pairs.add(pair)
        with selectors.DefaultSelector() as ready, suppress(OSError):
            for one, other in (pair, pair[::-1]):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                ready.register(one, selectors.EVENT_READ, other)
            while True:
                for key, _ in ready.select():
                    data = key.fileobj.recv(1 << 16)
                    if not data:
                        raise OSError
                    key.data.sendall(data)
        self._pairs.discard(pair)
        near.close()
        far.close()


class Nest:
    """Replicas, forked from one process that computes nothing itself."""

    def __init__(self, address: str) -> None:
        self.address, self.made = address, 0
        quiet = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # no threads at import
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--nest"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | quiet, preexec_fn=end_with_parent,
        )  # fmt: skip
        self.replicas: list[int] = []
        self.names: dict[str, int] = {}

    def start(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.made += 1
        name = f"replica {self.made}"
        print(json.dumps({"address": self.address, "name": name}), file=self.process.stdin, flush=True)
        self.replicas.append(int(self.process.stdout.readline()))
        self.names[name] = self.replicas[-1]

    def send(self, process: int, what: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(process, what)

    def close(self) -> None:
        for process in self.replicas:
            self.send(process, signal.SIGKILL)
        self.process.kill()
        self.process.wait()


def nest() -> None:
    """What a nest's process does."""
    from brigade.api.llm import LLM
    from brigade.replica.replica import Replica

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    for line in sys.stdin:
        assert len(os.listdir("/proc/self/task")) == 1, "a process with threads cannot be forked"
        process = os.fork()
        if process:
            print(process, flush=True)
            continue
        end_with_parent()
        given = json.loads(line)
        llm = LLM("mini", **SETTINGS)
        with suppress(Exception):
            Replica(llm, given["address"], name=given["name"], say=lambda line: None).run()
        os._exit(0)


class Coordinator:
    def __init__(self, journal: Path | str, more: Sequence[str] = TIMES) -> None:
        self.journal, self.more = journal, more
        self.ports = [_free_port() for _ in range(3)]
        self.start()

    def start(self) -> None:
        where = [
            w
            for n, p in zip(("clients", "replicas", "operators"), self.ports, strict=True)
            for w in (f"--{n}", f"tcp://127.0.0.1:{p}")
        ]
        command = [sys.executable, "-m", "brigade.cli.main", "coordinator", *where, "--journal", str(self.journal), *self.more]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT, preexec_fn=end_with_parent
        )  # fmt: skip
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "operators at" in line:
                threading.Thread(target=self._listen, args=(self.process.stderr,), daemon=True).start()
                return
        raise SystemExit("the coordinator did not start")

    @staticmethod
    def _listen(errors: Any) -> None:
        for line in errors:
            print(f"  {line.rstrip()}", flush=True)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def requests(count: int, chance: random.Random) -> tuple[list[Any], list[Any]]:
    """Of every kind that a failure could change: penalties count what was said, seeds have positions, text has seams."""
    from brigade import SamplingParams

    prompts, params = [], []
    for _ in range(count):
        words = "".join(chance.choice(WORDS) for _ in range(chance.randint(1, 12)))
        prompts.append(words if chance.random() < 0.7 else [chance.randrange(300, 4000) for _ in range(chance.randint(1, 60))])
        more: dict[str, Any] = {"seed": chance.getrandbits(32), "temperature": chance.choice((0.0, 0.7, 1.0, 1.5))}
        for name, values, often in (
            ("frequency_penalty", (0.5, 1.5), 0.3), ("presence_penalty", (1.0,), 0.2), ("repetition_penalty", (1.2,), 0.2),
            ("top_p", (0.8,), 0.3), ("top_k", (20,), 0.2), ("logprobs", (0, 3), 0.3), ("prompt_logprobs", (1,), 0.15),
            ("echo", (True,), 0.1), ("n", (2, 3), 0.2), ("stop", (["\n"], ["self", "def"]), 0.2), ("ignore_eos", (True,), 0.5),
            ("priority", (-1, 1), 0.2), ("logit_bias", ({300: 5.0},), 0.1),
        ):  # fmt: skip
            if chance.random() < often:
                more[name] = chance.choice(values)
        most = chance.randint(1, 60)
        if chance.random() < 0.3:
            more["min_tokens"] = chance.randint(1, most)
        params.append(SamplingParams(max_tokens=most, **more))
    return prompts, params


def plain(output: Any) -> Any:
    samples = [(s.index, s.text, s.token_ids, s.logprobs, s.finish_reason, s.stop_reason, s.seed, s.error) for s in output.samples]
    return output.prompt, output.prompt_token_ids, output.prompt_logprobs, samples


class Faults:
    """One after the other, until enough have come or the streams are at their end."""

    def __init__(self, fleet: Fleet, chance: random.Random, pause: float) -> None:
        self.fleet, self.chance, self.pause = fleet, chance, pause
        self.count: Counter[str] = Counter()
        self._over = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def end(self) -> None:
        self._over.set()
        self.thread.join()

    def _run(self) -> None:
        while not self._over.wait(self.chance.uniform(0.2, 2.0) * self.pause):
            kind = self.chance.choice(KINDS)
            self.count[kind] += 1
            fleet, victim = self.fleet, self.chance.choice(self.fleet.nest.replicas)
            if kind in ("kill", "both"):
                fleet.nest.replicas.remove(victim)
                fleet.nest.send(victim, signal.SIGKILL)
                fleet.nest.start()
            if kind in ("coordinator", "both"):
                fleet.coordinator.kill()
                fleet.coordinator.start()
            if kind == "stop":  # for longer than it may be silent: it is given up, and wakes
                fleet.nest.send(victim, signal.SIGSTOP)
                self._over.wait(self.chance.uniform(0.1, 2.5))
                fleet.nest.send(victim, signal.SIGCONT)
            if kind == "cut clients":
                fleet.clients.cut()
            if kind == "cut replicas":
                fleet.replicas.cut()


class Fleet:
    def __init__(self, folder: Path) -> None:
        self.coordinator = Coordinator(folder / "journal")
        self.clients, self.replicas = Proxy(self.coordinator.ports[0]), Proxy(self.coordinator.ports[1])
        self.nest = Nest(f"tcp://127.0.0.1:{self.replicas.port}")
        for _ in range(REPLICAS):
            self.nest.start()

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.clients.port}"

    def close(self) -> None:
        self.nest.close()
        self.coordinator.kill()
        self.clients.close()
        self.replicas.close()


@contextmanager
def fleet() -> Iterator[Fleet]:
    with tempfile.TemporaryDirectory() as folder:
        made = Fleet(Path(folder))
        try:
            yield made
        finally:
            made.close()


def one_run(seed: int, faults: int, pause: float, llm: Any) -> tuple[Counter[str], int, list[str]]:
    """The faults there were, the streams, and what changed."""
    from brigade.client import Client

    chance, wrong, streams = random.Random(seed), [], 0
    with fleet() as made, Client(made.address, "mini") as client, ExitStack() as stack:
        trouble = Faults(made, random.Random(seed + 1), pause)
        trouble.thread.start()
        stack.callback(trouble.end)
        while trouble.count.total() < faults:
            if not trouble.thread.is_alive():
                raise SystemExit("there are no faults any more: their thread has ended")
            prompts, params = requests(STREAMS, chance)
            stream = client.stream(prompts, params)
            tokens: dict[tuple[str, int], list[int]] = {}
            for delta in stream:
                key = (delta.request_id, delta.index)
                tokens.setdefault(key, []).extend(delta.token_ids)
            streams += len(prompts)
            expected = [plain(output) for output in llm.generate(prompts, params)]
            for number, (output, whole) in enumerate(zip(stream.outputs, expected, strict=True)):
                found = plain(output)
                heard = [tokens.get((str(number), sample.index), []) for sample in output.samples]
                if found != whole or heard != [sample.token_ids for sample in output.samples]:
                    wrong.append(f"seed {seed}, stream {streams - len(prompts) + number}: {found} is not {whole}; heard {heard}")
    return trouble.count, streams, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nest", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the first run; each other has the next")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between two faults, on the average")
    args = parser.parse_args()
    if args.nest:
        return nest()
    from brigade import LLM

    total, streams, changed, seed, begun = Counter[str](), 0, 0, args.seed, time.monotonic()
    with LLM("mini", **SETTINGS) as llm:
        while total.total() < args.faults:
            count, there, wrong = one_run(seed, min(RUN, args.faults - total.total()), args.pause, llm)
            total += count
            streams, changed = streams + there, changed + len(wrong)
            print(
                f"seed {seed}: {count.total()} faults, {there} streams, {len(wrong)} changed; {time.monotonic() - begun:.0f} s",
                flush=True,
            )
            for line in wrong[:5]:
                print(f"  {line}", flush=True)
            seed += 1
    kinds = ", ".join(f"{number} {kind}" for kind, number in total.most_common())
    print(f"{total.total()} faults ({kinds}), {streams} streams, {changed} changed")
    raise SystemExit(1 if changed else 0)


if __name__ == "__main__":
    main()
