"""API keys: who may ask, what the log says of a key, and that no two keys share cached prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from brigade import LLM
from brigade.errors import ConfigError
from brigade.serve.api_keys import ApiKeys, Caller, read_keys
from brigade.serve.errors import ApiError
from tests.serve.raw import Reply, ask, becomes, is_error, request, wire
from tests.serve.servers import Running, serving

ALICE, BOB = "sk-alice-0123456789", "sk-bob-0123456789"
LONG = {"prompt": list(range(5, 205)), "max_tokens": 1, "temperature": 0, "return_token_ids": True}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def refused(reply: Reply) -> str:
    assert reply.status == 401 and is_error(reply.json) and reply.headers["www-authenticate"] == "Bearer", reply
    assert reply.json["error"]["code"] == "invalid_api_key" and reply.json["error"]["type"] == "invalid_request_error"
    return reply.json["error"]["message"]


@pytest.fixture(scope="module")
def server(llm: LLM):
    with serving(llm, keys=[ALICE, BOB]) as made:
        yield made


@pytest.mark.parametrize("key", [ALICE, BOB])
def test_each_of_the_keys_may_ask(server: Running, key: str) -> None:
    assert ask(server.port, "/v1/completions", LONG, **bearer(key)).status == 200
    assert ask(server.port, "/v1/models", authorization=f"bearer  {key} ").status == 200


@pytest.mark.parametrize(
    "given",
    [
        {}, {"authorization": ""}, {"authorization": ALICE}, {"authorization": f"Basic {ALICE}"}, bearer(""), bearer(ALICE[:-1]),
        bearer(ALICE + "x"), bearer(ALICE.upper()), bearer(f"{ALICE},{BOB}"), bearer(f"{ALICE} {BOB}"), bearer("\xff\xfe" * 9),
        {"x_api_key": ALICE}, {"authorization": f"Bearer{ALICE}"},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/models", "/v1/completions", "/tokenize", "/metrics", "/openapi.json", "/nowhere"])
def test_without_one_of_them_there_is_nothing_to_be_had(server: Running, given: dict[str, str], path: str) -> None:
    body = LONG if path == "/v1/completions" else {"prompt": "a"} if path == "/tokenize" else None
    message = refused(ask(server.port, path, body, **given))
    assert ALICE not in message and "Authorization: Bearer KEY" in message


@pytest.mark.parametrize("path", ["/health", "/ready", "/version"])
def test_what_balancers_ask_needs_no_key(server: Running, path: str) -> None:
    assert ask(server.port, path).status == 200


def test_the_document_says_where_a_key_is_needed(server: Running, llm: LLM) -> None:
    document = ask(server.port, "/openapi.json", **bearer(ALICE)).json
    assert document["components"]["securitySchemes"]["key"] == {"type": "http", "scheme": "bearer"}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            needs = bool(operation.get("security", document["security"]))
            reply = ask(server.port, path, b"[]" if method == "post" else None)
            assert (reply.status == 401) == needs, path
    assert document["security"] == [{"key": []}]
    with serving(llm) as free:
        assert ask(free.port, "/openapi.json").json["security"] == [{"key": []}, {}], "a key may be sent, and need not be"


def test_the_body_of_somebody_without_a_key_is_not_read(server: Running) -> None:
    with wire(server.port) as one:
        one.send(request("/v1/completions", None, "POST", content_length="1000"))
        refused(one.reply())


def test_the_log_names_a_key_and_never_says_it(server: Running) -> None:
    asked = [f"named-{place}" for place in range(6)]  # a line is written after the answer: others may come in between
    for place, key in enumerate((ALICE, BOB, "sk-mallory-0123456789")):
        ask(server.port, f"/v1/models?api_key={key}", **bearer(key), x_request_id=asked[2 * place])
        ask(server.port, "/v1/completions", LONG, **bearer(key), x_request_id=asked[2 * place + 1])
    lines: dict[str | None, dict] = {}

    def all_are_there() -> bool:
        lines.update((line.get("request"), line) for line in list(server.lines))
        return lines.keys() >= set(asked)

    assert becomes(all_are_there)
    text = json.dumps(list(lines.values()))
    assert not any(key in text for key in (ALICE, BOB, "mallory"))
    names = [lines[name].get("key") for name in asked]
    assert names[0] == names[1] and names[0].startswith("1:") and names[2] == names[3] and names[2].startswith("2:")
    assert names[4:] == [None, None]


def cached(server: Running, key: str, **more) -> tuple[int, list[int]]:
    found = ask(server.port, "/v1/completions", LONG | more, **bearer(key)).json
    return found["usage"]["prompt_tokens_details"]["cached_tokens"], found["choices"][0]["token_ids"]


def test_two_keys_share_no_cached_prompt_and_say_the_same(llm: LLM) -> None:
    with serving(llm, keys=[ALICE, BOB]) as server:
        first, again, other = cached(server, ALICE), cached(server, ALICE), cached(server, BOB)
        assert (first[0], other[0]) == (0, 0) and again[0] >= 128
        assert first[1] == again[1] == other[1]
        assert cached(server, BOB)[0] == again[0]


def test_a_salt_of_a_request_divides_further_and_joins_no_keys(llm: LLM) -> None:
    with serving(llm, keys=[ALICE, BOB]) as server:
        for key in (ALICE, BOB):
            assert [cached(server, key, cache_salt=salt)[0] for salt in ("a", "b")] == [0, 0]
            assert cached(server, key)[0] == 0, "nor with the requests that bring none"
            assert all(cached(server, key, cache_salt=salt)[0] >= 128 for salt in ("a", "b"))


def test_long_salts_that_differ_at_their_ends_are_two(llm: LLM) -> None:
    with serving(llm, keys=[ALICE]) as server:
        assert [cached(server, ALICE, cache_salt="x" * 255 + end)[0] for end in "ab"] == [0, 0]
        reply = ask(server.port, "/v1/completions", LONG | {"cache_salt": "x" * 257}, **bearer(ALICE))
        assert reply.status == 400 and reply.json["error"]["param"] == "cache_salt"


def test_without_keys_everybody_shares_but_for_the_salts_of_requests(llm: LLM) -> None:
    def found(**more) -> int:
        usage = ask(server.port, "/v1/completions", LONG | {"prompt": list(range(7, 207))} | more).json["usage"]
        return usage["prompt_tokens_details"]["cached_tokens"]

    with serving(llm) as server:
        assert (found(), found(cache_salt="x"), found(cache_salt="y")) == (0, 0, 0)
        assert min(found(), found(cache_salt="x"), found(cache_salt="y")) >= 128


def test_salts_of_one_server_are_not_those_of_another() -> None:
    callers = [ApiKeys([ALICE]).caller(f"Bearer {ALICE}".encode()) for _ in range(2)]
    assert callers[0].name == callers[1].name and callers[0].salt != callers[1].salt


def test_a_caller_without_a_key_has_the_salt_of_its_request() -> None:
    assert Caller().salted(None) is None and Caller().salted("a") == "a"
    assert len({Caller("1", "s").salted(one) for one in (None, "", "a")}) == 3


def test_keys_come_from_options_and_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# of my team\n\n  {BOB}  \n{ALICE}\n")
    keys = read_keys([ALICE], file)
    assert len(keys) == 2 and keys.caller(f"Bearer {BOB}".encode()).name.startswith("2:")
    with pytest.raises(ApiError):
        keys.caller(b"Bearer # of my team")


@pytest.mark.parametrize(
    ("given", "text", "words"),
    [
        (["short"], None, "API key 1 is no key"), ([ALICE, "with a space"], None, "API key 2 is no key"),
        (["ключ-ключ-ключ"], None, "printable ASCII"), ([], "# nothing\n", "holds no key"), ([], None, "cannot be read"),
    ],
    ids=["short", "space", "letters", "empty file", "no file"],
)  # fmt: skip
def test_keys_that_are_none_are_refused_and_not_repeated(tmp_path: Path, given: list[str], text: str | None, words: str) -> None:
    file = tmp_path / "keys"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=words) as error:
        read_keys(given, None if given else file)
    assert not any(key in str(error.value) for key in given)
