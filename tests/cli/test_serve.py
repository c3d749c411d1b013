"""`brigade serve` as a process: its address, its end, TLS, and the layouts behind it."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from brigade import LLM, SamplingParams
from brigade.backends.cpu.library import find_kernels
from brigade.cli.main import make_parser
from brigade.serve.server import shown_address
from tests.api.small_model import POISON, write_model
from tests.cli.test_coordinator import SMALL, Command, _children, run
from tests.parallel.test_lives import is_there
from tests.serve.raw import Wire, ask, becomes, is_error, request

NEVER = {str(POISON): -100}  # a word that ends the request in which it comes
LONG: dict[str, Any] = {
    "prompt": "def f(", "max_tokens": 300, "ignore_eos": True, "seed": 3, "temperature": 1, "return_token_ids": True,
    "logit_bias": NEVER,
}  # fmt: skip
SHORT = LONG | {"max_tokens": 12}
needs_kernels = pytest.mark.skipif(find_kernels() is None, reason="the C++ kernels are not built: no compiler on this machine")


class Serve(Command):
    """It says on which port it is there."""

    def __init__(self, *words: str | Path, quiet: bool = True) -> None:
        super().__init__("serve", "--port", "0", *(["--quiet"] if quiet else []), *words)
        self.port = int(self.until(r"serving .+ at https?://127\.0\.0\.1:(\d+)/v1")[1])

    def tokens(self, body: dict[str, Any]) -> list[int]:
        reply = ask(self.port, "/v1/completions", body)
        assert reply.status == 200, reply
        return reply.token_ids if body.get("stream") else reply.json["choices"][0]["token_ids"]


@pytest.fixture
def serve(commands):
    def start(*words: str | Path, **more: Any) -> Serve:
        commands.append(Serve(*words, **more))
        return commands[-1]

    return start


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("serve") / "small")


def known(model: Path | None, bodies: list[dict[str, Any]]) -> list[list[int]]:
    """What the engine says when it is asked directly."""
    names = ("max_tokens", "ignore_eos", "seed", "temperature", "constraint")
    with LLM(model) as llm:
        given = [{name: body[name] for name in names if name in body} for body in bodies]
        params = [SamplingParams(**one, logit_bias={POISON: -100}) for one in given]
        return [output.token_ids for output in llm.generate([body["prompt"] for body in bodies], params)]


def test_it_says_its_address_answers_and_ends_when_it_is_told(serve) -> None:
    server = serve("--served-model-name", "one", "--served-model-name", "two", quiet=False)
    assert [one["id"] for one in ask(server.port, "/v1/models").json["data"]] == ["one", "two"]
    assert server.tokens(SHORT) == known(None, [SHORT])[0]
    assert server.end() == 0
    lines = [json.loads(line) for line in server.lines if line.startswith("{")]
    assert [line["path"] for line in lines] == ["/v1/models", "/v1/completions"] and lines[1]["tokens"] == 12
    assert not any("Traceback" in line for line in server.lines)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stream_that_runs_goes_to_its_end_and_new_requests_are_sent_away(serve, how: int) -> None:
    server = serve()
    stream = Wire(server.port)
    stream.send(request("/v1/completions", LONG | {"stream": True, "n": 4}))
    stream.until(b"data: ")
    server.process.send_signal(how)
    server.until("1 request goes on to its end")
    for path, body in (("/v1/completions", SHORT), ("/v1/chat/completions", {}), ("/ready", None)):
        reply = ask(server.port, path, body)
        assert reply.status == 503 and reply.headers["retry-after"] == "10" and reply.json["error"]["code"] == "draining"
    assert ask(server.port, "/health").status == 200
    events = stream.reply().events
    ids: dict[int, list[int]] = {index: [] for index in range(4)}
    for event in events[:-1]:
        for choice in event["choices"]:
            ids[choice["index"]] += choice["token_ids"]
    assert events[-1] == "[DONE]" and {len(one) for one in ids.values()} == {300}
    assert server.process.wait(20) == 0


def test_a_second_signal_tells_whoever_is_cut_off_and_ends_at_once(serve) -> None:
    server = serve("--max-batch-size", "1", quiet=False)
    stream = Wire(server.port)
    stream.send(request("/v1/completions", LONG | {"stream": True, "n": 100}))
    stream.until(b"data: ")
    waits = Wire(server.port)
    waits.send(request("/v1/completions", LONG))  # behind the others
    time.sleep(0.5)
    server.process.send_signal(signal.SIGTERM)
    server.until("2 requests go on to their end")
    begun = time.monotonic()
    assert server.end() == 0 and time.monotonic() - begun < 3
    *_, error, done = stream.reply().events
    assert is_error(error) and error["error"]["code"] == "draining" and done == "[DONE]" and stream.is_closed()
    whole = waits.reply()
    assert whole.status == 503 and whole.headers["retry-after"] == "10" and whole.json == error and waits.is_closed()
    assert not any("Traceback" in line for line in server.lines), server.lines
    lines = [json.loads(line) for line in server.lines if line.startswith("{")]
    assert sorted(line["status"] for line in lines) == [200, 503]
    assert all("this server ended before the answer did" in line["error"] for line in lines)


def test_a_client_that_reads_nothing_does_not_hold_up_the_end(serve) -> None:
    server = serve("--max-batch-size", "1")
    deaf = Wire(server.port, receive_buffer=4096)
    deaf.send(request("/v1/completions", LONG | {"stream": True, "n": 128, "logprobs": 100, "max_tokens": 100}))
    deaf.until(b"data: ")
    time.sleep(2)
    server.process.send_signal(signal.SIGTERM)
    server.until("1 request goes on to its end")
    begun = time.monotonic()
    assert server.end() == 0 and time.monotonic() - begun < 6


@pytest.mark.parametrize("pause", [0.0, 0.02, 0.1, 0.2, 0.3, 0.5])
def test_an_idle_server_ends_well_however_quickly_the_second_signal_follows(serve, pause: float) -> None:
    server = serve()
    server.process.send_signal(signal.SIGTERM)
    time.sleep(pause)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) == 0


def test_what_takes_too_long_is_cut_off(serve) -> None:
    server = serve("--max-batch-size", "1", "--drain-seconds", "0.5")
    stream = Wire(server.port)
    stream.send(request("/v1/completions", LONG | {"stream": True, "n": 100}))
    stream.until(b"data: ")
    begun = time.monotonic()
    assert server.end() == 0 and time.monotonic() - begun < 5
    assert any("1 request was not over after 0.5 s; what is left is cut off" in line for line in server.lines)
    *_, error, done = stream.reply().events
    assert is_error(error) and error["error"]["code"] == "draining" and done == "[DONE]"
    assert not any("Traceback" in line for line in server.lines), server.lines


def test_a_page_whose_name_was_made_to_lead_here_is_refused(serve) -> None:
    server = serve("--allowed-host", "box.example.org")
    for host, status in (("evil.example", 403), (f"127.0.0.1:{server.port}", 200), ("box.example.org:443", 200)):
        assert ask(server.port, "/v1/completions", SHORT, host=host).status == status
    assert ask(server.port, "/v1/completions", SHORT, origin="https://evil.example", content_type="text/plain").status == 403
    assert server.end() == 0


def make_certificate(folder: Path) -> tuple[Path, Path]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl to make a certificate with")
    cert, key = folder / "cert.pem", folder / "key.pem"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", key, "-out", cert]
    subprocess.run([openssl, *words, "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"], check=True, capture_output=True)
    return cert, key


def test_tls_by_a_certificate(serve, tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    server = serve("--tls-cert", cert, "--tls-key", key)
    assert any("https://127.0.0.1" in line for line in server.lines)
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=20, context=ssl.create_default_context(cafile=cert))
    whole = _post(connection, LONG | {"max_tokens": 300, "logprobs": 20})
    stream = _post(connection, LONG | {"max_tokens": 300, "stream": True})
    assert len(whole) > 100_000 and stream.endswith(b"data: [DONE]\n\n")
    with pytest.raises((ConnectionError, EOFError)):  # without it
        ask(server.port, "/health")
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200
    assert server.end() == 0


def _post(connection: http.client.HTTPConnection, body: dict[str, Any]) -> bytes:
    connection.request("POST", "/v1/completions", json.dumps(body))
    reply = connection.getresponse()
    assert reply.status == 200
    return reply.read()


def test_a_certificate_that_cannot_be_used_is_one_line(tmp_path: Path, capsys) -> None:
    cert, key = make_certificate(tmp_path)
    locked = tmp_path / "locked.pem"
    words = ["openssl", "rsa", "-aes256", "-passout", "pass:secret", "-in", key, "-out", locked]
    subprocess.run(words, check=True, capture_output=True)
    (tmp_path / "text").write_text("no certificate")
    other = tmp_path / "other"
    other.mkdir()
    none, text, (_, foreign) = tmp_path / "none", tmp_path / "text", make_certificate(other)
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nno base64\n-----END CERTIFICATE-----\n")
    for *pair, said in (
        (none, key, f"--tls-cert {none} cannot be used: No such file"),
        (cert, none, f"--tls-key {none} cannot be used: No such file"),
        (text, key, f"--tls-cert {text} cannot be used: it holds no certificate"), (broken, key, f"--tls-cert {broken} with"),
        (cert, cert, f"--tls-key {cert} cannot be used: it holds no private key"),
        (cert, locked, f"--tls-key {locked} cannot be used: it has a password"),
        (cert, foreign, f"--tls-key {foreign} cannot be used: it is not the key of the certificate {cert}"),
    ):  # fmt: skip
        code, _, error = run(capsys, "serve", "--port", "0", "--tls-cert", pair[0], "--tls-key", pair[1])
        assert code == 2 and said in error and "cannot be used" in error and error.count("\n") == 1, error


def test_a_key_of_a_file_that_is_none_is_named_by_its_line(tmp_path: Path, capsys) -> None:
    (tmp_path / "keys").write_text("# ours\n\nlong-enough-1\nbad\n")
    code, _, error = run(capsys, "serve", "--port", "0", "--api-key", "long-enough-0", "--api-key-file", tmp_path / "keys")
    assert code == 2 and f"line 4 of --api-key-file {tmp_path / 'keys'} is no key" in error and "bad" not in error


def test_an_address_of_ipv6_is_written_as_urls_have_it() -> None:
    assert shown_address("::1", 8001) == "[::1]:8001" and shown_address("127.0.0.1", 80) == "127.0.0.1:80"


def test_the_longest_request_is_what_the_cache_holds(serve) -> None:
    server = serve("--kv-blocks", "1")
    assert ask(server.port, "/v1/models").json["data"][0]["max_model_len"] == 65
    reply = ask(server.port, "/v1/completions", {"prompt": [5] * 10, "max_tokens": 200})
    assert reply.status == 400 and "lower max_tokens" in reply.json["error"]["message"]
    assert reply.json["error"]["code"] == "context_length_exceeded"
    chat = ask(server.port, "/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]})
    assert chat.status == 200 and chat.json["usage"]["total_tokens"] <= 65


def test_a_port_that_is_taken_is_said_before_a_model_is_loaded(capsys) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, error = run(capsys, "serve", "no/such/model", "--port", port)
    assert code == 2 and f"127.0.0.1:{port} cannot be listened at" in error and error.count("\n") == 1


@pytest.mark.parametrize("words", [["--block-size", "16"], ["--kv-blocks", "8"]])
def test_settings_that_replicas_refuse_are_one_line_at_once(words: list[str]) -> None:
    command = [sys.executable, "-m", "brigade.cli.main", "serve", "--port", "0", "--dp", "2", *words]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    errors = [line for line in found.stderr.splitlines() if not line.startswith("memory: ")]
    assert found.returncode == 2 and len(errors) == 1, found.stderr
    assert errors[0].startswith(("brigade: error: --block-size is 16", "brigade: error: the cache has 512 positions"))


WRONG = {
    "two models": (["mini", "--model", "mini"], "the model is given twice"),
    "half of tls": (["--tls-cert", "x"], "--tls-cert and --tls-key belong together"),
    "keys": (["--keys", "x"], "--keys has no effect without --connect"),
    "tokenizer": (["--tokenizer", "mini"], "--tokenizer has no effect without --connect"),
    "dp": (["--dp", "0"], "--dp is 0"),
    "dp and connect": (["--dp", "2", "--connect", "tcp://127.0.0.1:9"], "give one of them"),
    "threads and connect": (["--threads", "2", "--connect", "tcp://127.0.0.1:9"], "--threads has no effect with --connect"),
    "a limit": (["--body-bytes", "0"], "--body-bytes is 0"),
    "headers of no request": (["--header-bytes", "5"], "--header-bytes is 5; it must be 1024 or more"),
    "a key": (["--api-key", "short"], "API key 1 is no key"),
    "a file of keys": (["--api-key-file", "/nowhere"], "/nowhere cannot be read"),
    "a template": (["--chat-template", "/nowhere"], "--chat-template /nowhere cannot be read"),
    "an origin": (["--cors", "example.org"], "--cors example.org is no origin"),
    "a name": (["--port", "0", "--allowed-host", "box:80"], "--allowed-host box:80 is no name of a host"),
    "a host": (["--host", "no.such.host.invalid"], "--host no.such.host.invalid is no address"),
    "a host of another machine": (["--host", "192.0.2.1"], "--host 192.0.2.1 is no address"),
    "memory": (["--port", "0", "--kv-memory", "1K"], "error: --kv-memory is 1.0 KiB"),
    "three ranks": (["--port", "0", "--tp", "3"], "error: --tp is 3, but sums"),
    "a number format": (["--port", "0", "--quant", "int3"], "error: --quant is 'int3'; it must be"),
    "a length": (["--port", "0", "--max-model-len", "5000"], "error: --max-model-len is 5000, but"),
    "a served name": (["--served-model-name", " "], "--served-model-name is ' '"),
    "an option": (["--nosuch"], "unrecognized arguments: --nosuch; see `brigade serve --help`"),
    "an option of vLLM": (["--tensor_parallel_size=2"], "--tensor_parallel_size is an option of vLLM: give --tp; see"),
    "one of llama.cpp": (["--ctx-size", "20"], "--ctx-size; --ctx-size is an option of llama.cpp: give --max-model-len; see"),
    "a short one": (["-np", "2", "mini"], "-np is an option of llama.cpp: give --max-batch-size; see"),
    "one of a request": (["--seed", "1"], "--seed is an option of vLLM: give seed with each request; see"),
    "a slip of the pen": (["--prot", "9000"], "; the nearest to --prot is --port; see `brigade serve --help`"),
    "a line in place of a dash": (["--max_model_len", "9"], "; the nearest to --max_model_len is --max-model-len; see"),
    "two of them": (["--jinja", "--prot", "9"], "drop it; the nearest to --prot is --port; see"),
    "a GGUF file": (["--port", "0", "some.gguf"], "some.gguf is a GGUF file, which is not read; give the Hugging Face folder"),
    "a file": (["--port", "0", __file__], "test_serve.py is a file; give the model's folder"),
    "a port": (["--port", "70000"], "--port is 70000"),
    "a port below 0": (["--port", "-1"], "--port is -1"),
}


def test_the_help_has_words_for_every_option_and_no_heading_twice() -> None:
    parser = make_parser("serve")
    (commands,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    serve = commands.choices["serve"]
    assert [action.option_strings for action in serve._actions if not action.help] == []
    titles = [group.title for group in serve._action_groups]
    assert len(titles) == len(set(titles))
    (memory,) = [action.help for action in serve._actions if action.dest == "kv_memory"]
    assert "of each replica" in memory


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_is_one_line(case: str, capsys) -> None:
    words, said = WRONG[case]
    code, _, error = run(capsys, "serve", *words)
    assert code == 2 and said in error and error.count("\n") == 1 and "short" not in error


def test_a_template_for_a_model_without_a_tokenizer_is_refused(tmp_path: Path, capsys) -> None:
    bare = write_model(tmp_path / "bare", vocabulary=96)
    (tmp_path / "chat.jinja").write_text("{{ messages[0].content }}")
    code, _, error = run(capsys, "serve", bare, "--port", "0", "--chat-template", tmp_path / "chat.jinja")
    assert code == 2 and "--chat-template has no effect without a tokenizer" in error


def test_a_template_that_is_no_jinja_is_refused_before_the_model_is_loaded(tmp_path: Path, capsys) -> None:
    path = tmp_path / "chat.jinja"
    path.write_text("{% for one in messages %}\n{{ one.content")
    code, _, error = run(capsys, "serve", "no/such/model", "--port", "0", "--chat-template", path)
    assert code == 2 and error.count("\n") == 1
    assert f"--chat-template {path} cannot be used" in error and "is not valid jinja, line 2" in error


def test_a_broken_template_of_the_models_own_refuses_chats_alone(serve, model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    (broken / "chat_template.jinja").write_text("{{ nothing")
    server = serve(broken)
    assert any("chats are refused: the chat template 'default' is not valid jinja" in line for line in server.lines)
    messages = {"messages": [{"role": "user", "content": "a"}]}
    for path in ("/v1/chat/completions", "/tokenize"):
        reply = ask(server.port, path, messages)
        error = reply.json["error"]
        assert reply.status == 400 and error["param"] == "messages" and "--chat-template" in error["message"]
    assert len(server.tokens(SHORT)) == 12 and server.end() == 0
    assert not any("Traceback" in line for line in server.lines)


def test_a_template_of_ones_own(serve, tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text("{% for one in messages %}<{{ one.content }}>{% endfor %}")
    server = serve("--chat-template", tmp_path / "chat.jinja")
    messages = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    ids = ask(server.port, "/tokenize", {"messages": messages}).json["tokens"]
    assert ask(server.port, "/detokenize", {"tokens": ids}).json["prompt"] == "<a><b>"


def streams(server: Serve, bodies: list[dict[str, Any]], meanwhile) -> list[list[int]]:
    """All at once; `meanwhile` is called when each has begun."""
    begun = threading.Barrier(len(bodies) + 1, timeout=60)

    def one(body: dict[str, Any]) -> list[int]:
        made = Wire(server.port, timeout=60)
        made.send(request("/v1/completions", body | {"stream": True}))
        made.until(b"data: ")
        begun.wait()
        return made.reply().token_ids

    with ThreadPoolExecutor(len(bodies)) as pool:
        asked = [pool.submit(one, body) for body in bodies]
        begun.wait()
        meanwhile()
        return [future.result() for future in asked]


def test_a_replica_that_is_killed_while_streams_run_changes_no_token(serve, model: Path) -> None:
    """Constrained ones among them."""
    bodies = [LONG | {"prompt": f"x{seed} = ", "seed": seed, "max_tokens": 400} for seed in range(4)]
    for seed in (4, 5):
        one = LONG | {"prompt": f"x{seed} = ", "seed": seed, "max_tokens": 400, "constraint": {"regex": "([a-z]{1,9} ){90,}"}}
        bodies.append({name: value for name, value in one.items() if name not in ("ignore_eos", "min_tokens")})
    server = serve(model, *SMALL, "--dp", "2")
    assert becomes(lambda: ask(server.port, "/health").json.get("replicas") == 2, 60)
    victim = _children(server.process.pid)[0]
    found = streams(server, bodies, lambda: os.kill(victim, signal.SIGKILL))
    assert found == known(model, bodies)
    assert not is_there(victim) and server.tokens(SHORT) == known(model, [SHORT])[0]
    replicas = _children(server.process.pid)
    assert server.end() == 0
    assert becomes(lambda: not any(map(is_there, replicas)))


def test_without_any_replica_it_is_not_well_and_gets_well_again(serve, model: Path) -> None:
    server = serve(model, *SMALL, "--dp", "2")
    assert becomes(lambda: ask(server.port, "/health").json.get("replicas") == 2, 60)
    for one in _children(server.process.pid):
        os.kill(one, signal.SIGKILL)
    assert becomes(lambda: ask(server.port, "/health").status == 503, 5)
    assert ask(server.port, "/health").json["error"]["code"] == "no_replica"
    assert becomes(lambda: ask(server.port, "/health").status == 200, 60)
    assert server.tokens(SHORT) == known(model, [SHORT])[0]


def test_it_asks_the_replicas_of_a_coordinator(serve, commands, model: Path) -> None:
    where = [word for name in ("clients", "replicas", "operators") for word in (f"--{name}", "tcp://127.0.0.1:*")]
    fleet = Command("coordinator", *where, "--journal", "off", "--dp", "1", "--model", model, *SMALL)
    commands.append(fleet)
    address = fleet.until(r"clients at (\S+)")[1]
    fleet.until("works for tcp")
    expected = known(model, [SHORT])[0]
    bare, full = serve("--connect", address), serve("small", "--connect", address, "--tokenizer", model)
    for server in (bare, full):
        assert server.tokens(SHORT) == server.tokens(SHORT | {"stream": True}) == expected
        assert ask(server.port, "/v1/models").json["data"][0]["id"] == "small"
    text = {"prompt": "def f("}
    assert ask(full.port, "/tokenize", text).json["count"] > 1
    refused = ask(bare.port, "/tokenize", text)
    assert refused.status == 400 and "--tokenizer" in refused.json["error"]["message"]
    fleet.process.kill()
    fleet.process.wait()
    for server in (bare, full):
        assert becomes(lambda server=server: ask(server.port, "/health").status == 503, 10)
        begun = time.monotonic()
        assert ask(server.port, "/version").status == 200 and ask(server.port, "/metrics").status == 200
        assert time.monotonic() - begun < 0.5, "nobody waits for a coordinator that is gone"
        assert server.end() == 0


@needs_kernels
def test_over_two_ranks_it_says_the_same_and_is_not_well_without_one_of_them(serve, model: Path) -> None:
    server = serve(model, *SMALL, "--tp", "2")
    assert server.tokens(SHORT) == known(model, [SHORT])[0]
    assert ask(server.port, "/health").status == 200
    stream = Wire(server.port)
    stream.send(request("/v1/completions", LONG | {"stream": True, "max_tokens": 400}))
    stream.until(b"data: ")
    rank = _children(server.process.pid)[0]
    os.kill(rank, signal.SIGKILL)
    reply = stream.reply()
    assert "error" in reply.events[-2] and reply.events[-1] == "[DONE]"
    for path, body in (("/health", None), ("/ready", None), ("/v1/completions", SHORT)):
        reply = ask(server.port, path, body)
        assert reply.status == 503 and reply.json["error"]["code"] == "engine_stopped", reply
    assert server.end() == 0


def test_a_server_that_others_reach_without_a_key_says_how_to_ask_for_one(tmp_path: Path, capsys) -> None:
    words = ("serve", "--host", "0.0.0.0", "--port", "0", tmp_path / "none")
    assert "no key is asked for; give --api-key-file FILE to ask for one\n" in run(capsys, *words)[2]
    keys = tmp_path / "keys"
    keys.write_text("a-key-of-some-length\n")
    assert "--api-key-file" not in run(capsys, *words, "--api-key-file", keys)[2]
