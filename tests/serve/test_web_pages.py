"""Pages in a browser reach no server that they are not meant for: neither across origins, nor under a name that leads here."""

from __future__ import annotations

import time

import pytest

from brigade import LLM
from brigade.errors import ConfigError
from brigade.serve.web_pages import hosts_of
from tests.serve.raw import Reply, ask, becomes, is_error, request, wire
from tests.serve.servers import Running, serving

BODY = {"prompt": [5, 6, 7], "max_tokens": 2, "ignore_eos": True}


@pytest.fixture(scope="module")
def local(llm: LLM):
    with serving(llm, hosts=hosts_of("127.0.0.1", ["Box.example.org"]), origins=["https://mine.example"]) as made:
        yield made


def refused(reply: Reply, code: str, *words: str) -> None:
    assert reply.status == 403 and is_error(reply.json) and reply.json["error"]["code"] == code, reply
    assert all(word in reply.json["error"]["message"] for word in words), reply.json
    assert "access-control-allow-origin" not in reply.headers


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://localhost:1", "null", "http://127.0.0.1", "https://mine.example.org"]
)
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/json"])
def test_a_page_of_another_origin_runs_nothing(local: Running, origin: str, kind: str) -> None:
    named = {"host": f"127.0.0.1:{local.port}", "x_request_id": f"page-{time.monotonic_ns()}"}
    reply = ask(local.port, "/v1/completions", BODY, origin=origin, content_type=kind, **named)
    refused(reply, "origin_not_allowed", repr(origin), "--cors")
    lines: list[dict] = []  # of this request: one of a request before it may come late

    def is_there() -> bool:
        lines[:] = [line for line in list(local.lines) if line.get("request") == named["x_request_id"]]
        return len(lines) == 1

    assert becomes(is_there) and "tokens" not in lines[0], "nothing of it ran"
    assert lines[0]["error"].startswith("origin_not_allowed: ")


def test_a_page_may_not_even_ask_whether_it_may(local: Running) -> None:
    for path in ("/v1/completions", "/health"):
        more = {"origin": "https://evil.example", "access_control_request_method": "POST"}
        refused(ask(local.port, path, method="OPTIONS", **more), "origin_not_allowed")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_a_page_of_the_servers_own_origin_asks_as_anybody(local: Running, host: str) -> None:
    where = f"{host}:{local.port}"
    assert ask(local.port, "/v1/completions", BODY, host=where, origin=f"http://{where}").status == 200


def test_a_page_that_is_allowed_asks_and_reads_the_answer(local: Running) -> None:
    reply = ask(local.port, "/v1/completions", BODY, origin="https://mine.example")
    assert reply.status == 200 and reply.headers["access-control-allow-origin"] == "https://mine.example"
    more = {"origin": "https://mine.example", "access_control_request_method": "POST"}
    with wire(local.port) as one:
        one.send(request("/v1/completions", method="OPTIONS", **more))
        assert one.reply().status == 204


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LOCALHOST:80", "localhost.", "127.0.0.1:9", "127.1.2.3", "[::1]", "[::1]:80", "10.0.0.7:8000",
        "app.localhost:3", "host.docker.internal:8000", "box.example.org", "BOX.example.org:443",
    ],
)  # fmt: skip
def test_names_by_which_the_server_is_asked(local: Running, host: str) -> None:
    assert ask(local.port, "/v1/completions", BODY, host=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "notlocalhost", "example.org",
        "a.box.example.org", "", ":8000", "[evil.example]", "127.0.0.1@evil.example", "2130706433",
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/completions", "/health"])
def test_a_name_that_was_made_to_lead_here_is_refused(local: Running, host: str, path: str) -> None:
    """Its page is of the server's own origin, as far as the browser knows."""
    reply = ask(local.port, path, BODY if path == "/v1/completions" else None, host=host, origin=f"http://{host}")
    refused(reply, "host_not_allowed", repr(host), "--allowed-host NAME")


def test_a_client_that_names_no_host_is_no_browser(local: Running) -> None:
    with wire(local.port) as one:
        one.send(b"GET /version HTTP/1.0\r\n\r\n")
        assert one.until(b"200 OK")


def test_curl_needs_no_more_than_before(local: Running) -> None:
    form = {"content_type": "application/x-www-form-urlencoded", "user_agent": "curl/8.0", "accept": "*/*"}
    assert ask(local.port, "/v1/completions", BODY, host=f"127.0.0.1:{local.port}", **form).status == 200


def test_all_pages_may_ask_where_that_is_said(llm: LLM) -> None:
    with serving(llm, origins=["*"]) as server:
        for origin in ("https://any.example", "null"):
            assert ask(server.port, "/v1/completions", BODY, origin=origin).headers["access-control-allow-origin"] == origin


@pytest.mark.parametrize(
    ("address", "names", "known"),
    [
        ("127.0.0.1", [], ("me",)), ("127.0.0.2", [], ("me",)), ("::1", [], ("me",)), ("::ffff:127.0.0.1", [], ("me",)),
        ("0.0.0.0", [], None), ("::", [], None), ("192.168.0.3", [], None), ("fe80::1%eth0", [], None),
        ("0.0.0.0", ["Box"], ("me", "box")),
    ],
)  # fmt: skip
def test_whom_the_check_is_for(address: str, names: list[str], known: tuple[str, ...] | None) -> None:
    assert hosts_of(address, names, "Me") == known


@pytest.mark.parametrize("name", ["http://box", "box:80", "", "a b", "*", "-a"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="--allowed-host .*such as box.example.org"):
        hosts_of("127.0.0.1", [name])
