"""Servers beside each other: how they are started and stopped, who is asked what and when, and what the tables say."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks import serve_peers
from benchmarks.peers import llama_server as building
from benchmarks.peers.catalogue import BRIGADE, PEERS, Peer, Variant
from benchmarks.peers.environment import NotPossible
from benchmarks.peers.server_figures import METRICS, ServerFigures, grids, report
from benchmarks.peers.servers import COMMANDS, NAMES, Place, Start, start_all
from benchmarks.serve_peers import Plan, measure
from benchmarks.server_process import NotStarted, ServerProcess, free_port
from brigade.bench.serving import Load, Served, Timing

RATE, FIRST, BETWEEN = METRICS

# A server that is no engine: it prints what it is asked, and says a word for each token.
FAKE = """
import json, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

lock = threading.Lock()

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args): pass
    def answer(self, body, kind="application/json"):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.answer(b"{}" if self.path == "/health" else json.dumps({"data": [{"id": "m"}]}).encode())
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with lock:
            print(json.dumps(asked), flush=True)
        if sys.argv[2] == "short":
            asked["max_tokens"] -= asked["max_tokens"] > 1
        if not asked.get("stream"):
            return self.answer(json.dumps({"choices": [{"text": str(asked["prompt"][0])}]}).encode())
        time.sleep(0.2 if sys.argv[2] == "slow" else 0.0)
        words = [{"choices": [{"text": "w", "finish_reason": None}]}] * asked["max_tokens"]
        events = words + [{"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": asked["max_tokens"]}}]
        self.answer(b"".join(b"data: " + json.dumps(one).encode() + b"\\n\\n" for one in events), "text/event-stream")

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def fake(tmp_path: Path, how: str) -> ServerProcess:
    port = free_port()
    return ServerProcess([sys.executable, "-c", FAKE, str(port), how], port, tmp_path / f"{how}.log", limit=30)


def asked_of(tmp_path: Path, how: str) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / f"{how}.log").read_text().splitlines()]


def test_a_server_is_ready_sleeps_goes_on_and_is_gone(tmp_path: Path) -> None:
    made = fake(tmp_path, "works")
    process = psutil.Process(made._process.pid)
    try:
        assert made._is_ready() and made.memory() > 1 << 20
        loop_busy = made.loop_busy()  # first: it goes on meanwhile
        assert made.busy() >= loop_busy > 0
        made.stop()
        until = time.monotonic() + 5
        while process.status() != psutil.STATUS_STOPPED and time.monotonic() < until:
            time.sleep(0.01)
        assert process.status() == psutil.STATUS_STOPPED
        made.go_on()
        assert made._is_ready()
    finally:
        made.close()
    assert not process.is_running() and not made._is_ready()


def test_a_server_that_does_not_start_says_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(NotStarted, match="ended with code 3: no such model"):
        ServerProcess([sys.executable, "-c", "print('no such model'); raise SystemExit(3)"], free_port(), tmp_path / "log")
    with pytest.raises(NotStarted, match="was not ready after 0.3 s: loading"):
        words = "import time; print('loading', flush=True); time.sleep(60)"
        ServerProcess([sys.executable, "-c", words], free_port(), tmp_path / "log", limit=0.3)


def test_everybody_gets_the_same_requests_in_turn(tmp_path: Path) -> None:
    plan = Plan((1, 3), rounds=2, warmup=1, per_client=2, least=3, prompt_length=(2, 5), output_length=(2, 4), seed=7)
    servers = {f"peer/{how}": fake(tmp_path, how) for how in ("works", "slow", "short")}
    figures, told = ServerFigures(dict.fromkeys(servers, 16)), []
    try:
        asyncio.run(measure(servers, figures, plan, 100, told.append))
    finally:
        for process in servers.values():
            process.close()
    assert told == [f"{clients} clients, round {number} of 3" for clients in (1, 3) for number in (1, 2, 3)]
    probes, (works, slow) = serve_peers.PROBES, (asked_of(tmp_path, how)[serve_peers.PROBES :] for how in ("works", "slow"))
    assert sorted(map(json.dumps, works)) == sorted(map(json.dumps, slow)) and len(works) == 3 * 3 + 3 * 6
    assert len({json.dumps(one["prompt"]) for one in works}) > 20, "each round has requests of its own"
    assert figures.same == dict.fromkeys(servers, 1.0) and len(asked_of(tmp_path, "works")) == probes + len(works)
    assert all(size > 0 for size in figures.memory.values())
    for clients, count in ((1, 3), (3, 6)):
        assert [len(one.good) for one in figures.rounds["peer/works", clients]] == [count] * 2, "the first round does not count"
        assert ("peer/short", clients) not in figures.rounds
        assert f"{count} of {count} requests failed" in figures.failures["peer/short", clients]
    assert figures.value(FIRST, "peer/slow", 1) > 190 > figures.value(FIRST, "peer/works", 1)
    assert len(asked_of(tmp_path, "short")) == probes + 3 + 6, "who fails is spared the rest of the cell"


# How each is started


def start(variant: Variant, tmp_path: Path) -> Start:
    place = Place(tmp_path, tmp_path / "model", threads=2, batch=32, positions=256, limit=9.0)
    return Start(place, variant, Path("python"), tmp_path / "model", 8123, tmp_path)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_names_the_model_the_port_and_the_limits(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("benchmarks.peers.servers.llama_server", lambda python, folder: folder / "llama-server")
    peer = BRIGADE if name == BRIGADE.name else PEERS[name]
    words = COMMANDS[name](start(peer.variants[0], tmp_path))
    text = " ".join(words)
    assert "8123" in words and str(tmp_path / "model") in text and "32" in words
    assert set(words) & {"--no-prefix-cache", "--no-enable-prefix-caching", "--no-cache-prompt"}, (
        "prompts are not kept, as new ones are asked each round"
    )
    assert str(32 * 256) in words if name == "llama-cpp-python" else "256" in words


def test_our_command_is_one_that_we_understand(tmp_path: Path) -> None:
    from brigade.cli.main import make_parser

    for variant in BRIGADE.variants:
        words = COMMANDS["brigade"](start(variant, tmp_path))[3:]
        assert make_parser("serve").parse_args(words).quant == variant.settings["quant"]


def test_who_cannot_be_had_is_skipped_and_the_others_stay(tmp_path: Path, monkeypatch) -> None:
    def begin(peer: Peer, variant: Variant, place: Place, say) -> ServerProcess:
        if variant.name == "int8":
            raise NotPossible("not installable: no such version")
        if variant.name == "int4":
            raise NotStarted("ended with code 1: out of luck")
        return fake(tmp_path, "works")

    monkeypatch.setattr("benchmarks.peers.servers._start", begin)
    chosen = [(BRIGADE, Variant(name, 8)) for name in ("bf16", "int8", "int4")]
    started, skipped = start_all(chosen, start(BRIGADE.variants[0], tmp_path).place, lambda line: None)
    for process in started.values():
        process.close()
    assert list(started) == ["brigade/bf16"]
    assert skipped == {
        "brigade/int8": "not installable: no such version", "brigade/int4": "ended with code 1: out of luck",
    }  # fmt: skip


def test_llama_server_is_compiled_once_for_a_version(tmp_path: Path, monkeypatch) -> None:
    import tarfile

    made, version = list[list[str]](), ["1.0"]

    def pretend(command: list[str], log: Path, extra=None, cwd=None) -> None:
        made.append(command)
        if "download" in command:
            with tarfile.open(tmp_path / "s" / f"llama_cpp_python-{version[0]}.tar.gz", "w:gz") as archive:
                archive.add(__file__, f"llama_cpp_python-{version[0]}/vendor/llama.cpp/CMakeLists.txt")
        if "--build" in command:
            (tmp_path / "s" / "build" / "bin").mkdir(parents=True)
            (tmp_path / "s" / "build" / "bin" / "llama-server").touch()

    monkeypatch.setattr(building, "logged", pretend)
    monkeypatch.setattr(building, "_version", lambda python: version[0])
    monkeypatch.setattr(building.shutil, "which", lambda name: name)
    for _ in range(2):
        assert building.llama_server(Path("python"), tmp_path / "s").exists() and len(made) == 3
    assert (Path(made[1][made[1].index("-S") + 1]) / "CMakeLists.txt").exists()
    version[0] = "2.0"
    building.llama_server(Path("python"), tmp_path / "s")
    assert len(made) == 6 and "llama-cpp-python==2.0" in made[3]
    monkeypatch.setattr(building.shutil, "which", lambda name: None)
    with pytest.raises(NotPossible, match="needs cmake"):
        building.llama_server(Path("python"), tmp_path / "other")


# Figures


def served(seconds: float, first: float, gap: float, tokens: int = 4) -> Served:
    moments = [first + gap * place for place in range(tokens)]
    return Served(Load(clients=1), [Timing(moments, moments[-1], None, tokens)] * 2, seconds)


@pytest.fixture
def figures() -> ServerFigures:
    found = ServerFigures({"brigade/bf16": 16, "brigade/int8": 8, "brigade/int4": 4, "peer/bf16": 16, "peer/q8": 8})
    found.rounds["brigade/bf16", 1] = [served(1.0, 0.1, 0.01), served(2.0, 0.1, 0.01)]
    found.rounds["peer/bf16", 1] = [served(2.0, 0.2, 0.005), served(2.0, 0.2, 0.005)]
    found.rounds["brigade/int8", 1] = [served(1.0, 0.3, 0.01)] * 2
    found.rounds["brigade/int4", 1] = [served(0.5, 0.4, 0.01)] * 2
    found.rounds["peer/q8", 1] = [served(1.0, 0.15, 0.01)] * 2
    found.failures["peer/q8", 8] = "it fell over"
    found.skipped["peer/q4"] = "not installable"
    return found


def test_a_rate_is_compared_round_by_round_and_a_time_by_all_requests(figures: ServerFigures) -> None:
    assert figures.value(RATE, "brigade/bf16", 1) == 6.0 and figures.value(FIRST, "peer/bf16", 1) == pytest.approx(200)
    assert figures.times(RATE, "brigade/bf16", "peer/bf16", 1) == 1.5
    assert figures.times(FIRST, "brigade/bf16", "peer/bf16", 1) == pytest.approx(2.0)
    assert figures.times(BETWEEN, "brigade/bf16", "peer/bf16", 1) == pytest.approx(0.5)
    assert figures.value(RATE, "peer/bf16", 8) is None and figures.times(RATE, "brigade/bf16", None, 1) is None


def test_the_best_of_few_bits_may_be_another_one_for_each_figure(figures: ServerFigures) -> None:
    assert (
        figures.best(RATE, 1, (8, 4), ours=True) == "brigade/int4" and figures.best(FIRST, 1, (8, 4), ours=True) == "brigade/int8"
    )
    assert figures.best(RATE, 1, (8, 4), ours=False) == "peer/q8" and figures.best(RATE, 8, (8, 4), ours=False) is None


def test_the_tables_say_who_is_ahead_and_who_is_missing(figures: ServerFigures) -> None:
    text = "\n".join(line for grid in grids(figures, (1, 8)) for line in grid.text())
    verdicts = [line.split() for line in text.splitlines() if line.endswith(("ahead", "behind"))]
    assert [line[-1] for line in verdicts] == ["ahead", "ahead", "behind", "ahead", "behind", "behind"]
    assert "8 clients: it fell over" in text and "not installable" in text and "1 client\n" in text
    facts = json.loads(json.dumps(report(figures, {"model": "m"})))
    assert len(facts["loads"]) == 10 and facts["failures"] == [{"server": "peer/q8", "clients": 8, "reason": "it fell over"}]


def test_tokens_that_came_together_are_told(figures: ServerFigures) -> None:
    figures.rounds["peer/q8", 8] = [Served(Load(clients=8), [Timing([0.1] * 6, 0.1, None, 2)], 1.0)]
    assert (
        figures.together("peer/q8", 8) == 3.0 and figures.together("peer/q8", 1) == 1.0 and figures.together("peer/q8", 2) is None
    )


# The command


@pytest.mark.parametrize(
    ("words", "said"),
    [(["ctranslate2"], "ctranslate2 has no server"), (["nobody"], "no peer 'nobody'"), (["--clients", "0"], "--clients 1 or more"),
     (["--rounds", "0"], "--rounds is 0"), (["--output-length", "8", "2000"], "may have 2128 positions")],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused_before_anything_is_installed(words: list[str], said: str, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["serve_peers.py", *words])
    with pytest.raises(SystemExit):
        serve_peers.main()
    assert said in capsys.readouterr().err


def test_the_list_has_every_server(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["serve_peers.py", "--list"])
    serve_peers.main()
    said = capsys.readouterr().out.split()
    assert "brigade/int4-int8" in said and all(f"{name}/bf16" in said for name in NAMES) and "ctranslate2/int8" not in said
