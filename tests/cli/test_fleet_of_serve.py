"""`brigade serve` before a coordinator that is not there, goes away, comes back with another model, or has replicas that load."""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from tests.api.small_model import write_model
from tests.cli.test_coordinator import SMALL, Command, coordinator
from tests.cli.test_serve import LONG, SHORT, Serve, known
from tests.serve.raw import Reply, Wire, ask, becomes, request


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of the same name and shape, and other weights."""
    return [write_model(tmp_path_factory.mktemp(f"fleet-{seed}") / "small", seed=seed) for seed in (5, 6)]


def free_address() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{found.getsockname()[1]}"


@pytest.fixture
def fleet(commands):
    def start(clients: str, model: Path, *more: str) -> Command:
        where = ["--clients", clients, "--replicas", "tcp://127.0.0.1:*", "--operators", "tcp://127.0.0.1:*"]
        made = Command("coordinator", *where, "--journal", "off", "--dp", "1", "--model", model, *SMALL, *more)
        commands.append(made)
        made.until("works for tcp")
        return made

    return start


@pytest.fixture
def serve(commands):
    def start(*words: str | Path) -> Serve:
        commands.append(Serve(*words))
        return commands[-1]

    return start


def timed(port: int, body: dict[str, Any]) -> tuple[Reply, float]:
    begun = time.monotonic()
    return ask(port, "/v1/completions", body), time.monotonic() - begun


def test_while_the_coordinator_is_away_new_requests_are_sent_away_soon_and_what_runs_goes_on(serve, fleet, models) -> None:
    address, body = free_address(), LONG | {"max_tokens": 400, "stream": True}
    first = fleet(address, models[0])
    server = serve("--connect", address)
    stream = Wire(server.port, timeout=60)
    stream.send(request("/v1/completions", body))
    stream.until(b"data: ")
    first.process.kill()
    first.process.wait()
    for most in (8.0, 2.0):  # when nobody knows yet, and when it is known
        reply, seconds = timed(server.port, SHORT)
        assert reply.status == 503 and reply.json["error"]["code"] == "no_coordinator" and seconds < most, (reply, seconds)
        assert reply.headers["retry-after"] == "5"
        said = rf"the coordinator at {re.escape(address)} has said nothing for \d+ s; see that it runs and can be reached"
        assert re.fullmatch(said, reply.json["error"]["message"])
        assert becomes(lambda: ask(server.port, "/ready").status == 503)
        assert re.fullmatch(said, ask(server.port, "/ready").json["error"]["message"])  # the same words
    fleet(address, models[0])
    assert stream.reply().token_ids == known(models[0], [body])[0]
    assert becomes(lambda: timed(server.port, SHORT)[0].status == 200, 20)


def test_a_fleet_of_another_model_in_its_place_is_followed(serve, fleet, models) -> None:
    address = free_address()
    first = fleet(address, models[0])
    server = serve("--connect", address)
    before = ask(server.port, "/v1/completions", SHORT).json
    assert before["choices"][0]["token_ids"] == known(models[0], [SHORT])[0]
    assert first.end() == 0
    fleet(address, models[1], "--max-model-len", "200")
    server.until("other replicas of small are there now: .* 200 positions")
    after = ask(server.port, "/v1/completions", SHORT).json
    assert after["choices"][0]["token_ids"] == known(models[1], [SHORT])[0]
    assert after["system_fingerprint"] != before["system_fingerprint"]
    (one,) = ask(server.port, "/v1/models").json["data"]
    assert one["max_model_len"] == 200 and one["system_fingerprint"] == after["system_fingerprint"]
    refused = ask(server.port, "/v1/completions", SHORT | {"prompt": [5, 6, 7], "max_tokens": 250})
    assert refused.status == 400 and refused.json["error"]["code"] == "context_length_exceeded"


def test_it_says_soon_what_it_waits_for_where_nobody_is(commands) -> None:
    address = free_address()
    command = Command("serve", "nosuch", "--port", "0", "--connect", address)
    commands.append(command)
    command.until(f"waiting up to 10 s for a coordinator at {address}, where none answers so far; start it with")
    told = time.monotonic()
    assert command.process.wait(30) == 2 and time.monotonic() - told > 6, "it was told early"


def test_it_says_soon_which_replica_it_waits_for(commands, fleet, models) -> None:
    address = free_address()
    fleet(address, models[0])
    command = Command("serve", "nosuch", "--port", "0", "--connect", address)
    commands.append(command)
    line = command.until("waiting up to 3600 s for a replica of nosuch at ")[0] + command.lines[-1]
    assert "there are replicas of small" in line and "brigade replica --serve-as nosuch" in line


def test_without_a_name_it_waits_for_a_replica_of_any(commands, fleet, models, tmp_path: Path) -> None:
    _, (address, replicas, _) = coordinator(commands, tmp_path)
    command = Command("serve", "--port", "0", "--connect", address)
    commands.append(command)
    command.until(f"waiting up to 3600 s for a replica at {address}, where there is no replica at all; start one with `brigade")
    commands.append(Command("replica", "--connect", replicas, "--model", models[0], "--serve-as", "first", *SMALL))
    command.until("serving first at http")


def test_without_a_name_replicas_of_two_models_are_named(commands, models, tmp_path: Path) -> None:
    _, (address, replicas, _) = coordinator(commands, tmp_path)
    for name in ("first", "second"):
        commands.append(Command("replica", "--connect", replicas, "--model", models[0], "--serve-as", name, *SMALL))
    for one in commands[-2:]:
        one.until("works for")
    command = Command("serve", "--port", "0", "--connect", address)
    commands.append(command)
    line = command.until("brigade: error: ")[0] + command.lines[-1]
    assert f"there are replicas of first, second at {address}; give one of these names as MODEL" in line


def test_it_says_how_many_replicas_are_ready(serve, models) -> None:
    server = serve(models[0], *SMALL, "--dp", "2")
    while not any("all 2 replicas are ready" in line for line in server.lines):
        server.until("replicas")
    for path in ("/health", "/ready"):
        assert becomes(lambda path=path: ask(server.port, path).json == {"status": "ok", "replicas": 2, "replicas_wanted": 2})
