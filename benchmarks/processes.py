"""Processes for benchmarks: a coordinator, and replicas of the embedded model around it, which may be killed, stopped and cut off.

Replicas are forked from a process that has imported everything (a nest), so that killing one costs no more than loading it.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from brigade.client import Client

MODEL = "mini"
SETTINGS: dict[str, Any] = {"max_batch_size": 16, "kv_blocks": 96, "block_size": 32, "max_step_tokens": 256, "threads": 1}


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
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes the one who accepts
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


@dataclass(frozen=True, slots=True)
class Forked:
    """A replica of a nest. `handle`: of its process, which is signalled through it alone: `number` may be another's by now."""

    name: str
    number: int
    handle: int

    def send(self, what: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.handle, what)


class Nest:
    """Replicas, forked from one process that computes nothing itself. `replicas`: those that were not killed from here."""

    def __init__(self, address: str) -> None:
        self.address, self.made = address, 0
        quiet = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # no threads at import
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | quiet, preexec_fn=end_with_parent,
        )  # fmt: skip
        self.replicas: list[Forked] = []

    def start(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.made += 1
        name = f"replica {self.made}"
        print(json.dumps({"address": self.address, "name": name}), file=self.process.stdin, flush=True)
        number = int(self.process.stdout.readline())
        self.replicas.append(Forked(name, number, os.pidfd_open(number)))  # its number is not free before the next line

    def named(self, name: str) -> Forked:
        (found,) = [one for one in self.replicas if one.name == name]
        return found

    def kill(self, replica: Forked) -> None:
        self.replicas.remove(replica)
        replica.send(signal.SIGKILL)
        os.close(replica.handle)

    def close(self) -> None:
        for replica in list(self.replicas):
            self.kill(replica)
        try:
            self.process.communicate(timeout=10)  # it ends when the last of them has
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()


def nest() -> None:
    """What a nest's process does. A replica that has ended keeps its number until the next line is read, so that whoever has just
    heard the number can open its handle."""
    from brigade.api.llm import LLM
    from brigade.replica.replica import Replica

    for line in sys.stdin:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        assert len(os.listdir("/proc/self/task")) == 1, "a process with threads cannot be forked"
        process = os.fork()
        if process:
            print(process, flush=True)
            continue
        end_with_parent()
        given = json.loads(line)
        llm = LLM(MODEL, **SETTINGS)
        with suppress(Exception):
            Replica(llm, given["address"], name=given["name"], say=lambda line: None).run()
        os._exit(0)
    with suppress(ChildProcessError):
        while os.wait():
            pass


class Coordinator:
    def __init__(self, journal: Path | str, more: Sequence[str] = ()) -> None:
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
        line = "it said nothing"
        for line in self.process.stderr:
            if "operators at" in line:
                threading.Thread(target=self._listen, args=(self.process.stderr,), daemon=True).start()
                return
        self.process.stderr.close()
        self.kill()
        raise SystemExit(f"the coordinator did not start: {line.strip()}")

    @staticmethod
    def _listen(errors: Any) -> None:
        with errors:
            for line in errors:
                print(f"  {line.rstrip()}", flush=True)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@dataclass(frozen=True)
class Fleet:
    """`proxies`: of "clients" and of "replicas", where their connections can be cut."""

    coordinator: Coordinator
    nest: Nest
    client: Client
    proxies: Mapping[str, Proxy]

    def wait_for(self, replicas: int) -> None:
        """Until so many are there."""
        while len(self.client.status().replicas) < replicas:
            time.sleep(0.05)


@contextmanager
def fleet(replicas: int, more: Sequence[str] = (), *, with_proxies: bool = False) -> Iterator[Fleet]:
    """A coordinator with a journal, so many replicas that have been started, and a client of theirs. `more`: words for the
    coordinator's command line."""
    from brigade.client import Client

    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        coordinator = Coordinator(Path(folder) / "journal", more)
        stack.callback(coordinator.kill)
        ports, proxies = dict(zip(("clients", "replicas"), coordinator.ports, strict=False)), dict[str, Proxy]()
        if with_proxies:
            for side in ports:
                proxies[side] = Proxy(ports[side])
                stack.callback(proxies[side].close)
                ports[side] = proxies[side].port
        nest = Nest(f"tcp://127.0.0.1:{ports['replicas']}")
        stack.callback(nest.close)
        for _ in range(replicas):
            nest.start()
        client = Client(f"tcp://127.0.0.1:{ports['clients']}", MODEL)
        stack.callback(client.close)
        yield Fleet(coordinator, nest, client, proxies)


if __name__ == "__main__":
    nest()
