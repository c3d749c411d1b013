"""A server in a process group of its own, for whoever measures it: ready when its `/health` says so, asleep while others have their
turn, and gone at the end with everything that it started."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import psutil  # noqa: E402

from benchmarks.processes import end_with_parent  # noqa: E402
from brigade.bench.http_client import Address  # noqa: E402

EVERY = 0.05  # seconds between two looks at a server that starts


class NotStarted(Exception):
    """The server ended, or was not ready in time; the text says why, in one line."""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def many_sockets(count: int) -> None:
    """This process and those that it starts may hold so many connections. Each of both sides takes one descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise SystemExit(f"{count} open files are needed, and {hard} are allowed here; raise the hard limit of open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))


class ServerProcess:
    """`seconds`: from its start until it was ready."""

    def __init__(
        self, command: Sequence[str], port: int, log: Path, environment: Mapping[str, str] | None = None, limit: float = 600
    ) -> None:
        self.address, self.log = Address("127.0.0.1", port, "/v1"), log
        begun = time.perf_counter()
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=ROOT, env=os.environ | dict(environment or {}),
                start_new_session=True, preexec_fn=end_with_parent,
            )  # fmt: skip
        try:
            while not self._is_ready():
                if self._process.poll() is not None:
                    raise NotStarted(f"ended with code {self._process.returncode}: {last_line(log)}")
                if time.perf_counter() - begun > limit:
                    raise NotStarted(f"was not ready after {limit:g} s: {last_line(log)}")
                time.sleep(EVERY)
        except BaseException:
            self.close()
            raise
        self.seconds = time.perf_counter() - begun

    def _is_ready(self) -> bool:
        try:
            with urlopen(f"http://{self.address.host}:{self.address.port}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def stop(self) -> None:
        """Threads that wait by spinning would cost the others their processor."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        self._signal(signal.SIGKILL)
        self._process.wait()

    def memory(self) -> int:
        """Bytes, of all its processes."""
        return sum(one.memory_info().rss for one in self._all())

    def busy(self) -> float:
        """Processor seconds of all its processes."""
        return sum(sum(one.cpu_times()[:2]) for one in self._all())

    def loop_busy(self) -> float:
        """Processor seconds of the first thread alone, which in our server answers the connections."""
        process = psutil.Process(self._process.pid)
        return next((one.user_time + one.system_time for one in process.threads() if one.id == process.pid), 0.0)

    def _all(self) -> list[psutil.Process]:
        process = psutil.Process(self._process.pid)
        return [process, *process.children(recursive=True)]

    def _signal(self, number: int) -> None:
        if self._process.returncode is None:  # else its number may be somebody else's by now
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


def last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it said nothing"
