"""A signal that comes while a command starts ends it with one line, whatever is being imported at that moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.cli.test_coordinator import Command, _children
from tests.parallel.test_lives import is_there

BEGINNING = """
import sys
from brigade.cli.process import as_process
sys.argv = ["brigade", "serve", "--port", "0"]
print("begins", flush=True)
sys.exit(as_process())
"""

SENDER = """
import os, sys, time

class Sender:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), {signal})

sys.meta_path.insert(0, Sender())
sys.argv = ["brigade", "serve", "--port", "0"]
from brigade.cli.main import as_process
sys.exit(as_process())
"""


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)


# numpy is imported by torch's C++ code, which clears the errors of that; the others are before, in and behind it.
@pytest.mark.parametrize("module", ["brigade.cli.serve", "torch", "numpy", "numpy.linalg", "torch.nn", "brigade.api.llm"])
def test_ctrl_c_during_an_import_is_not_lost(module: str) -> None:
    found = _run(SENDER.format(module=module, signal=int(signal.SIGINT)))
    assert (found.returncode, found.stderr) == (130, "brigade: interrupted\n")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("module", ["numpy", "brigade.api.llm"])
def test_other_signals_have_their_line_too(how: signal.Signals, module: str) -> None:
    found = _run(SENDER.format(module=module, signal=int(how)))
    assert (found.returncode, found.stderr) == (128 + how, f"brigade: ended by {how.name}\n")


@pytest.mark.parametrize("seconds", [0.06, 0.18, 0.22, 0.56])
def test_ctrl_c_ends_a_server_that_starts_at_any_moment(seconds: float) -> None:
    """Counted from where Brigade's own code begins, since a signal before that has its line from Python."""
    process = subprocess.Popen([sys.executable, "-c", BEGINNING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "begins\n"
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert "Traceback" not in error
    if "serving" in error:  # the machine is so quick that the server listened already
        assert process.returncode == 0
    else:
        assert process.returncode == 130 and error.endswith("brigade: interrupted\n")


def test_a_server_whose_replicas_load_takes_them_along(commands) -> None:
    server = Command("serve", "--port", "0", "--dp", "2")
    commands.append(server)
    server.until("memory: ")
    replicas = _children(server.process.pid)
    assert len(replicas) == 2 and server.end(signal.SIGTERM) == 143 and not any(map(is_there, replicas))
    assert server.lines[-1] == "brigade: ended by SIGTERM\n" and not any("Traceback" in line for line in server.lines)


def test_a_server_under_nohup_is_not_ended_by_its_terminal() -> None:
    code = SENDER.format(module="torch", signal=int(signal.SIGHUP)).replace('"--port", "0"', '"--port", "-1"')
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN) and None, env=os.environ,
    )  # fmt: skip
    assert found.returncode == 2 and "--port is -1" in found.stderr
