"""A worker process, seen from the run: it wakes for its turn, answers within a limit, and is stopped in between."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

SHOWN = 200  # characters of a log's last line
PATIENCE = 10.0  # seconds from a closed output to the end of its process


class WorkerError(Exception):
    """This worker cannot do this; it is still there."""


class WorkerLost(WorkerError):
    """This worker is gone: it died, or it was killed because it took too long."""


class Worker:
    """Between its turns the whole process group sleeps by SIGSTOP, so that spinning thread pools cost the others nothing."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, cwd: Path | None = None):
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=cwd,
                env=os.environ | dict(environment or {}), start_new_session=True,
            )  # fmt: skip
        self._unread = b""
        self._stop()

    def ask(self, request: Mapping[str, Any], limit: float) -> dict[str, Any]:
        """Wake it, ask, and let it sleep again. `limit` is in seconds."""
        if self._process.returncode is not None:
            raise WorkerLost("it is gone already")
        self._signal(signal.SIGCONT)
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._lost() from None
        line = self._line(limit)
        try:
            reply = json.loads(line)
        except ValueError:
            self.close()
            raise WorkerLost(f"answered {line[:SHOWN].decode(errors='replace')!r}, which is no JSON; killed") from None
        self._stop()
        if "error" in reply:
            raise WorkerError(reply["error"])
        return reply

    def close(self) -> None:
        """However it ended, nothing of its process group stays."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # words it will never read
                    pipe.close()

    def _line(self, limit: float) -> bytes:
        assert self._process.stdout is not None
        until = time.monotonic() + limit
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(until - time.monotonic(), 0)):
                    self.close()
                    raise WorkerLost(f"no answer within {limit:g} s; killed")
                got = os.read(self._process.stdout.fileno(), 1 << 16)
                if not got:
                    raise self._lost()
                self._unread += got
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _lost(self) -> WorkerLost:
        """It closed its output, as the dying do."""
        until = time.monotonic() + PATIENCE
        while not (ended := self._ended()) and time.monotonic() < until:
            time.sleep(0.01)
        self.close()
        code = self._process.returncode
        how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        last = last_line(self._log)
        return WorkerLost((how if ended else "closed its output") + (f"; its last words: {last}" if last else ""))

    def _ended(self) -> bool:
        """Without taking its exit code: until that is done its number stays its own, and so does its process group's."""
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _stop(self) -> None:
        self._signal(signal.SIGSTOP)

    def _signal(self, number: int) -> None:
        if self._process.returncode is not None:  # its number may be somebody else's by now
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:SHOWN] if lines else ""
