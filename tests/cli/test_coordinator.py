"""`brigade coordinator`, `replica`, `control`, `keys`, `generate --connect`: processes that meet on sockets and are killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from brigade.cli.main import main, make_parser
from brigade.cli.options import given_model_options
from brigade.replica.launcher import as_options
from tests.api.small_model import write_model

SMALL = ["--kv-blocks", "24", "--block-size", "32", "--max-batch-size", "6", "--max-step-tokens", "64"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("fleet") / "small")


class Command:
    """A command that goes on, and what it has said."""

    def __init__(self, *words: str | Path, environment: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "brigade.cli.main", *map(str, words)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=os.environ | (environment or {}),
        )  # fmt: skip
        self.lines: list[str] = []

    def until(self, pattern: str) -> re.Match[str]:
        assert self.process.stdout is not None
        late = threading.Timer(120, self.process.kill)
        late.start()
        for line in self.process.stdout:
            self.lines.append(line)
            found = re.search(pattern, line)
            if found:
                late.cancel()
                return found
        late.cancel()
        raise AssertionError(f"it ended without {pattern!r}: {self.lines}")

    def end(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        code = self.process.wait(30)
        assert self.process.stdout is not None
        self.lines += self.process.stdout.readlines()
        self.process.stdout.close()
        return code


def coordinator(commands: list[Command], tmp_path: Path, *more: str | Path, **how: Any) -> tuple[Command, list[str]]:
    where = [word for name in ("clients", "replicas", "operators") for word in (f"--{name}", "tcp://127.0.0.1:*")]
    made = Command("coordinator", *where, "--journal", tmp_path / "journal", *more, **how)
    commands.append(made)
    return made, [made.until(rf"{who} at (\S+)")[1] for who in ("clients", "replicas", "operators")]


def run(capsys, *words: str | Path) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    return code, *capsys.readouterr()


def test_a_fleet_of_two_answers_as_the_model_alone(commands, model: Path, tmp_path: Path, capsys) -> None:
    """It starts its own replicas, one of which is killed; it is stopped in good order, and nothing is left."""
    fleet, (clients, _, operators) = coordinator(commands, tmp_path, "--dp", "2", "--model", model, *SMALL)
    for _ in range(2):
        fleet.until("works for tcp")
    prompts = ["--temperature", "1", "--seed", "3", "--max-tokens", "40", "--ignore-eos", "def f(", "import "]
    alone, there = tmp_path / "alone.json", tmp_path / "there.json"
    assert run(capsys, "generate", "--model", model, *SMALL, "--json", alone, *prompts)[0] == 0
    code, text, _ = run(capsys, "generate", "--connect", clients, "--json", there, *prompts)
    assert code == 0 and "--- prompt 1, sample 0 (length)" in text
    found = [json.loads(path.read_text())["requests"] for path in (alone, there)]
    assert [[s["token_ids"] for s in one["samples"]] for one in found[0].values()] == [
        [s["token_ids"] for s in one["samples"]] for one in found[1].values()
    ]
    code, status, _ = run(capsys, "control", "status", "--connect", operators)
    assert code == 0 and "running: 0 requests run, 0 wait" in status and status.count("serves small: 0 of 6 places") == 2
    facts, picture = tmp_path / "serve.json", tmp_path / "serve.svg"
    few = ["--num-requests", "6", "--prompt-length", "1", "9", "--output-length", "2", "8", "--ttft-target", "60000"]
    code, table, _ = run(
        capsys, "bench", "serve", "--connect", clients, "--clients", "1", "3", *few, "--json", facts, "--svg", picture
    )
    assert code == 0 and "small, 2 replicas at" in table and "goodput/s" in table
    loads = json.loads(facts.read_text())["loads"]
    assert [one["load"] for one in loads] == ["1 client", "3 clients"] and all(len(one["timings"]) == 6 for one in loads)
    assert picture.read_text().startswith("<svg")
    processes = _children(fleet.process.pid)
    assert len(processes) == 2
    os.kill(processes[0], signal.SIGKILL)
    assert "was killed by SIGKILL; it is started again in 0.5 s" in fleet.until("launcher: ")[0] + fleet.lines[-1]
    fleet.until("works for tcp")
    processes = _children(fleet.process.pid)
    code, text, _ = run(capsys, "generate", "--connect", clients, "--stream", *prompts[:-1])
    assert code == 0 and len(text) > 10
    assert run(capsys, "control", "stop", "--connect", operators)[0] == 0
    assert fleet.process.wait(30) == 0
    assert not [process for process in processes if _is_there(process)]


def _children(parent: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()] or [
        int(word) for task in Path(f"/proc/{parent}/task").iterdir() for word in (task / "children").read_text().split()
    ]


def _is_there(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_no_replica_outlives_a_coordinator_that_is_killed(commands, model: Path, tmp_path: Path) -> None:
    fleet, _ = coordinator(commands, tmp_path, "--dp", "1", "--model", model, *SMALL)
    fleet.until("works for tcp")
    (replica,) = _children(fleet.process.pid)
    fleet.process.kill()
    fleet.process.wait()
    end = time.monotonic() + 15
    while _is_there(replica) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _is_there(replica)


def test_replicas_that_refuse_their_settings_end_the_fleet_at_once_with_one_line(commands, tmp_path: Path) -> None:
    fleet, _ = coordinator(commands, tmp_path, "--dp", "2", "--model", tmp_path / "none")
    assert fleet.process.wait(60) == 2
    assert fleet.process.stdout is not None
    (line,) = fleet.process.stdout.readlines()
    assert line.startswith("brigade: error: no model")


def test_replicas_that_cannot_begin_end_the_fleet_with_their_reason(commands, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import os; os._exit(9)  # nobody can say why")
    words = ["--dp", "1", "--import", "broken", "--max-restarts", "1"]
    fleet, _ = coordinator(commands, tmp_path, *words, environment={"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"})
    fleet.process.wait(60)
    assert fleet.process.stdout is not None
    text = fleet.process.stdout.read()
    assert "no replica is left: every replica ended 1 times in a row; the last one: it ended with code 9" in text


def test_a_replica_with_keys_of_its_own_works_and_one_without_is_not_heard(commands, model: Path, tmp_path: Path, capsys) -> None:
    keys = tmp_path / "keys"
    code, text, _ = run(capsys, "keys", keys)
    assert code == 0 and text.count("key_secret") == 4
    fleet, (clients, replicas, operators) = coordinator(commands, tmp_path, "--keys", keys)
    replica = Command(
        "replica", "--connect", replicas, "--model", model, *SMALL, "--keys", keys, "--name", "mine", "--serve-as", "it"
    )
    commands.append(replica)
    replica.until("replica mine: works for")
    assert run(capsys, "generate", "--connect", clients, "--keys", keys, "--model", "it", "--max-tokens", "2", "a")[0] == 0
    assert "mine serves it" in run(capsys, "control", "status", "--connect", operators, "--keys", keys)[1]
    assert replica.end() == 0, "a wish to leave is followed"
    assert "0 of" not in run(capsys, "control", "status", "--connect", operators, "--keys", keys)[1]
    assert fleet.end() == 0


def test_a_paused_coordinator_is_what_generate_waits_for_and_it_says_so(commands, model: Path, tmp_path: Path, capsys) -> None:
    fleet, (clients, _, operators) = coordinator(commands, tmp_path, "--dp", "1", "--model", model, *SMALL)
    fleet.until("works for tcp")
    assert run(capsys, "control", "pause", "--connect", operators)[0] == 0
    waits = Command("generate", "--connect", clients, "--max-tokens", "4", "--ignore-eos", "a")
    commands.append(waits)
    waits.until(r"waiting: the coordinator at tcp\S+ is paused; `brigade control resume`")
    assert run(capsys, "control", "resume", "--connect", operators)[0] == 0
    assert waits.process.wait(30) == 0


WRONG = {
    "far": (["coordinator", "--clients", "tcp://0.0.0.0:6500"], "which other machines reach"),
    "insecure for nothing": (["coordinator", "--insecure"], "insecure has no effect"),
    "model without dp": (["coordinator", "--model", "mini"], "--model has no effect without --dp"),
    "restarts without dp": (["coordinator", "--max-restarts", "3"], "--max-restarts has no effect without --dp"),
    "bits that depend on the batch": (["coordinator", "--dp", "1", "--backend", "reference", "--exact", "off"], "drop it"),
    "negative dp": (["coordinator", "--dp", "-1"], "--dp is -1"),
    "sync without journal": (["coordinator", "--journal", "off", "--journal-sync", "full"], "has no effect with --journal off"),
    "a time that is none": (["coordinator", "--replica-timeout", "0"], "--replica-timeout is 0"),
    "a name that is none": (["replica", "--name", ""], "--name is ''"),
    "keys without connect": (["generate", "--keys", "x", "a"], "--keys x has no effect without --connect"),
    "two loads": (["bench", "serve", "--clients", "1", "--rate", "2"], "--clients and --rate are two kinds of load"),
    "arrivals without a rate": (["bench", "serve", "--arrivals", "fixed"], "--arrivals fixed has no effect without --rate"),
    "threads with connect": (
        ["generate", "--connect", "tcp://127.0.0.1:9", "--threads", "2", "a"],
        "--threads has no effect with --connect",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_is_one_line(case: str, capsys) -> None:
    words, said = WRONG[case]
    code, _, error = run(capsys, *words)
    assert code == 2 and said in error and error.count("\n") == 1


def test_every_model_option_that_was_given_is_passed_on() -> None:
    given = [
        "--model", "m", "--quant", "int8", "--skip-layers", "0,head", "--tp", "2", "--pp", "2", "--pp-layers", "3,5",
        "--import", "a", "--import", "b", "--no-prefix-cache", "--kv-memory", "1G", "--rank-timeout", "9.0",
    ]  # fmt: skip
    parser = make_parser("replica")
    args = parser.parse_args(["replica", *given])
    again = parser.parse_args(["replica", *as_options(given_model_options(args))])
    assert vars(again) == vars(args) and given_model_options(parser.parse_args(["replica"])) == {}
