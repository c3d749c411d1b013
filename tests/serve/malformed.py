"""Requests that are wrong in some way, made from a seed: bytes, framing, headers, addresses, bodies by the types that read them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import msgspec

from brigade.serve.openapi import BODIES

CHAT = [{"role": "user", "content": "sort a list"}]
# A good body for each address, as many fields as go together; answers are short.
GOOD: dict[str, dict[str, Any]] = {
    "/v1/completions": {
        "model": "mini", "prompt": "def f(", "max_tokens": 2, "temperature": 0.5, "top_p": 0.9, "n": 1, "seed": 3, "stop": ["~~"],
        "logprobs": 1, "logit_bias": {"5": 1.5}, "stream": False, "user": "me", "stop_token_ids": [7], "extra": {},
    },
    "/v1/chat/completions": {
        "model": "mini", "messages": CHAT, "max_tokens": 2, "seed": 3, "stream": True, "stream_options": {"include_usage": True},
        "logprobs": True, "top_logprobs": 2, "response_format": {"type": "text"}, "chat_template_kwargs": {},
    },
    "/tokenize": {"model": "mini", "prompt": "import os", "return_token_strs": True},
    "/detokenize": {"model": "mini", "tokens": [5, 6, 7]},
}  # fmt: skip
# Every kind of value, as it is written: some are no JSON, and some are JSON that no type of ours holds.
VALUES = (
    "null", "true", "false", "0", "1", "-1", "2", "1.5", "-0.0", "1e5", "1e999", "-1e999", "1" + "0" * 400, "-1" + "0" * 30,
    "9223372036854775808", "-9223372036854775809", "18446744073709551616", "NaN", "Infinity", "0x10", "01", "1.", "'a'",
    '""', '"a"', '"mini"', '"\\u0000"', '"\\ud800"', '"\\udc00x"', '"\\ud83d\\ude00"', '"\\q"', '"unfinished',
    '"' + "x" * 300 + '"',
    '"a\\nb"', "[]", "[null]", "[1]", "[-1]", "[1, 2, 99999999]", "[1.5]", "[true]", '["a"]', '["", "a"]', '["a", 1]', "[[]]",
    "[[1], [2]]", '[["a"]]', '["\\ud800"]', "[1e999]", "[" + "1" * 200 + "]", "{}", '{"a": 1}', '{"": null}', '{"5": 1}',
    '{"-5": 1}',
    '{"5": null}', '{"5": 1e999}', '{"\\ud800": 1}', '{"type": "json_schema"}', '{"type": {}}', '{"type": "text", "a": 1}',
    '{"role": "user"}', '[{"role": "user"}]', '[{"role": 5, "content": "a"}]', '[{"role": "user", "content": 5}]',
    '[{"role": "user", "content": [{"type": "image_url"}]}]', '[{"role": "user", "content": null}]', '[{"content": "a"}]',
    '{"messages": []}', '{"add_generation_prompt": 1, "self": 2}', '{"tools": "x"}', '{"include_usage": "yes"}', '{"1e3": 1}',
    '{"a": {"a": {"a": {}}}}', "[" * 70 + "]" * 70, '{"a":' * 300 + "1" + "}" * 300, "[" * 100_000, "", "nul", "[1,]", '{"a"}',
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Bytes in the pieces in which they are sent, and what the client does then: `wait` for the answer, stop to speak (`half`),
    leave (`close`), or break off (`reset`)."""

    kind: str
    pieces: Sequence[bytes] = field(repr=False)
    then: str = "wait"
    heads: bool = False
    answers: int = 1  # after which a client that waits has heard enough


def head(line: str | bytes, *headers: str | bytes) -> bytes:
    lines = [one.encode("latin-1") if isinstance(one, str) else one for one in (line, "host: here", *headers)]
    return b"\r\n".join([*lines, b"", b""])


def post(path: str, body: bytes, *headers: str | bytes) -> bytes:
    return head(f"POST {path} HTTP/1.1", f"content-length: {len(body)}", *headers) + body


def good(rng: random.Random) -> bytes:
    path = rng.choice([*GOOD, "/health", "/v1/models", "/metrics"])
    return post(path, json.dumps(GOOD[path]).encode()) if path in GOOD else head(f"GET {path} HTTP/1.1")


def written(body: dict[str, str]) -> bytes:
    """Values are JSON texts already."""
    return ("{" + ", ".join(f"{json.dumps(name)}: {value}" for name, value in body.items()) + "}").encode("utf-8", "surrogatepass")


@cache
def wrong_fields() -> list[tuple[str, str, str]]:
    """Each address, each field that its type has, each value."""
    return [
        (path, one.encode_name, value)
        for path, (body, _) in BODIES.items()
        for one in msgspec.inspect.type_info(body).fields  # type: ignore[attr-defined]
        for value in VALUES
    ]


def wrong_field(path: str, name: str, value: str) -> Case:
    fields = {key: json.dumps(one) for key, one in GOOD[path].items()} | {name: value}
    if name == "messages" and path == "/tokenize":
        del fields["prompt"]
    return Case(f"{path} {name}: {value[:40]}", [post(path, written(fields))])


def random_bytes(rng: random.Random) -> Case:
    return Case("random bytes", [rng.randbytes(rng.choice([1, 3, 20, 300, 5000, 70_000]))])


def damaged(rng: random.Random) -> Case:
    """A good request in which some bytes were changed, taken out or doubled."""
    data = bytearray(good(rng))
    for _ in range(rng.randint(1, 6)):
        at, how = rng.randrange(len(data)), rng.randrange(3)
        data[at : at + (how != 2)] = rng.randbytes(1) if how == 0 else b"" if how == 1 else bytes(data[at : at + 9])
    return Case("damaged", [bytes(data)])


def truncated(rng: random.Random) -> Case:
    data = good(rng)
    return Case("truncated", [data[: rng.randrange(1, len(data))]], rng.choice(["half", "close", "reset"]))


def in_pieces(rng: random.Random) -> Case:
    data, pieces = good(rng), []
    while data:
        size = rng.randint(1, 60)
        pieces.append(data[:size])
        data = data[size:]
    return Case("in pieces", pieces)


def gone(rng: random.Random) -> Case:
    return Case("gone", [good(rng)], rng.choice(["half", "close", "reset"]))


def bad_line(rng: random.Random) -> Case:
    line = rng.choice([
        "GET", "GET /", "GET / HTTP/9.9", "GET / HTTP/0.9", "GET / HTTP/1.0", "GET / HTTP/2.0", "GET  / HTTP/1.1",
        " GET / HTTP/1.1",
        "get / HTTP/1.1", "GET / HTTP/1.1 x", "GET\t/\tHTTP/1.1", "PRI * HTTP/2.0", "GET /\x00 HTTP/1.1",
        "\x16\x03\x01\x02\x00\x01",
        "GET / FTP/1.1", "SSTP_DUPLEX_POST / HTTP/1.1", "GET / HTTP/1.1\rX: y", "M-SEARCH * HTTP/1.1", "SOURCE / ICE/1.0", "\n\n\n",
        "OPTIONS rtsp://here RTSP/1.0", "G" * 9000, "GET " + "/a" * 9000 + " HTTP/1.1",
    ])  # fmt: skip
    return Case(f"line {line[:30]!r}", [head(line)])


def odd_address(rng: random.Random) -> Case:
    path = rng.choice([
        b"http://[::1", b"http://[::1]/health", b"http://here:99999/health", b"http://", b"//", b"///v1/models", b"/%ff", b"/%",
        b"/%00",
        b"/v1/models/%ff%fe", b"/v1/models/../../x", b"/\xff\xfe", "/é/ü".encode(), b"*", b"?", b"/?a=%ff&b", b"#", b"/a#b",
        b"here:80",
        b"/v1/models/" + b"x" * 5000, b"/health;x", b"/v1//completions", b"/v1/completions/", b"/V1/MODELS",
        b"/v1/models?x=" + b"y" * 900,
        b"mailto:a@b", b"/v1/models/%0d%0aset-cookie:%20a=b", b"/v1/models/%ed%a0%80", b"a" * 70_000,
    ])  # fmt: skip
    method = rng.choice([b"GET", b"GET", b"POST", b"DELETE", b"OPTIONS"])
    return Case(f"address {path[:30]!r}", [head(method + b" " + path + b" HTTP/1.1", "content-length: 0")])


def odd_method(rng: random.Random) -> Case:
    method = rng.choice(
        ["CONNECT", "TRACE", "OPTIONS", "HEAD", "PUT", "PATCH", "DELETE", "PROPFIND", "BREW", "GETT", "QUERY", "PURGE"]
    )
    path = rng.choice(["/v1/models", "/v1/completions", "/", "/health", *(["*", "here:443"] if method != "HEAD" else [])])
    return Case(f"{method} {path}", [head(f"{method} {path} HTTP/1.1", "content-length: 0")], heads=method == "HEAD")


def upgrade(rng: random.Random) -> Case:
    wanted = rng.choice(["websocket", "h2c", "TLS/1.0", "", "websocket, h2c"])
    more = ["connection: Upgrade", f"upgrade: {wanted}", "sec-websocket-version: 13", "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="]
    body = json.dumps(GOOD["/v1/completions"]).encode()
    data = rng.choice([head("GET /v1/models HTTP/1.1", *more), post("/v1/completions", body, *more)])
    return Case(f"upgrade to {wanted}", [data + rng.choice([b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", rng.randbytes(30)])])


def headers(rng: random.Random) -> Case:
    wrong: list[tuple[str, list[str | bytes]]] = [
        ("no colon", ["nonsense"]), ("space before the colon", ["a : b"]), ("no name", [": b"]), ("folded", ["a: b", " c"]),
        ("NUL", [b"a: \0b"]), ("NUL in a name", [b"a\0: b"]), ("bytes", [b"a: \xff\xfe\x80"]), ("DEL", [b"a: \x7f",
        b"origin: \x7f"]),
        ("bell", [b"a: \x07"]), ("100 kB", ["a: " + "b" * 100_000]), ("a name of 100 kB", ["a" * 100_000 + ": b"]),
        ("10,000 of them", [f"a{at}: b" for at in range(10_000)]), ("10,000 short ones", ["a:"] * 10_000),
        ("a bare return", [b"a: b\rc: d"]), ("two hosts", ["host: there"]), ("an id", [b"x-request-id: \xe9\xff"]),
        ("an id of 1 kB", ["x-request-id: " + "x" * 1000]), ("expectations", ["expect: 100-continue"]),
        ("others", ["expect: 200-ok"]),
        ("authorization", [b"authorization: \xff\xfe"]), ("an origin", [b"origin: http://\xff"]),
        ("connections", ["connection: close, x"]),
        ("an encoding", ["content-encoding: gzip"]), ("a type", ["content-type: multipart/form-data"]), ("te", ["te: trailers"]),
    ]  # fmt: skip
    kind, lines = rng.choice(wrong)
    data = rng.choice([head("GET /health HTTP/1.1", *lines), post("/tokenize", b'{"prompt": "a"}', *lines)])
    return Case(f"headers: {kind}", [data])


def endless(rng: random.Random) -> Case:
    """Headers that come to no end."""
    size = rng.choice([10, 1000, 30_000])
    return Case(
        "headers without end", [b"GET / HTTP/1.1\r\nhost: here\r\n" + b"a: b\r\n" * size], rng.choice(["half", "wait", "reset"])
    )


def lengths(rng: random.Random) -> Case:
    said = rng.choice([
        "-1", "99999999999999999999999", "9" * 5000, "1e3", "0x10", "+5", "5, 5", "5,6", "", " ", "5 5", "5;", "16777217",
        "4294967296",
        "18446744073709551615", "٥".encode().decode("latin-1"), "1", "100",
    ])  # fmt: skip
    more = rng.choice([[], [], ["content-length: 7"], ["transfer-encoding: chunked"], ["transfer-encoding: gzip"]])
    data = head("POST /tokenize HTTP/1.1", f"content-length: {said}", *more) + b'{"prompt": "abc"}'
    return Case(f"length {said[:20]!r} {more}", [data], rng.choice(["wait", "half"]))


def encodings(rng: random.Random) -> Case:
    said = rng.choice([
        "chunked", "gzip", "gzip, chunked", "chunked, gzip", "chunked, chunked", "identity", "Chunked", "xchunked", "chunked\t", "",
        " chunked", "\x0bchunked", '"chunked"',
    ])  # fmt: skip
    more = rng.choice([[], ["content-length: 3"], ["transfer-encoding: chunked"], ["transfer-encoding: identity"]])
    data = head("POST /tokenize HTTP/1.1", f"transfer-encoding: {said}", *more) + b'f\r\n{"prompt": "a"}\r\n0\r\n\r\n'
    return Case(f"encoding {said!r} {more}", [data])


def chunks(rng: random.Random) -> Case:
    body = json.dumps(GOOD["/tokenize"]).encode()
    size = b"%x" % len(body)
    kind, data = rng.choice([
        ("good", size + b"\r\n" + body + b"\r\n0\r\n\r\n"), ("too short", b"5\r\n" + body + b"\r\n0\r\n\r\n"),
        ("too long", b"ff\r\n" + body + b"\r\n0\r\n\r\n"), ("no number", b"zz\r\n" + body + b"\r\n0\r\n\r\n"),
        ("negative", b"-5\r\n" + body + b"\r\n0\r\n\r\n"), ("huge", b"f" * 16 + b"\r\n" + body),
        ("larger", b"f" * 17 + b"\r\n" + body),
        ("an endless size", b"0" * 5000 + size + b"\r\n" + body + b"\r\n0\r\n\r\n"), ("2 GB", b"80000000\r\n" + body),
        ("extensions", size + b";a=b;c\r\n" + body + b"\r\n0\r\n\r\n"),
        ("a long one", size + b";a=" + b"x" * 40_000 + b"\r\n" + body),
        ("trailers", size + b"\r\n" + body + b"\r\n0\r\na: b\r\nc: d\r\n\r\n"), ("no end", size + b"\r\n" + body + b"\r\n"),
        ("endless trailers", size + b"\r\n" + body + b"\r\n0\r\n" + b"a: b\r\n" * 20_000),
        ("no last line", size + b"\r\n" + body + b"\r\n0\r\n"),
        ("bare feeds", size + b"\n" + body + b"\n0\n\n"), ("spaces", b" " + size + b" \r\n" + body + b"\r\n0\r\n\r\n"),
        ("of one byte", b"".join(b"1\r\n%c\r\n" % one for one in body) + b"0\r\n\r\n"), ("none", b"0\r\n\r\n"),
        ("hexadecimal", b"0x" + size + b"\r\n" + body + b"\r\n0\r\n\r\n"), ("no feed behind", size + b"\r\n" + body + b"0\r\n\r\n"),
    ])  # fmt: skip
    return Case(
        f"chunks: {kind}", [head("POST /tokenize HTTP/1.1", "transfer-encoding: chunked") + data], rng.choice(["wait", "half"])
    )


def pipelined(rng: random.Random) -> Case:
    count = rng.choice([2, 5, 30, 300])
    many = [good(rng) if count < 30 else head("GET /version HTTP/1.1") for _ in range(count)]
    bad = rng.choice([[], [], [b"nonsense\r\n\r\n"], [head("GET / HTTP/1.1")[:9]]])
    return Case(f"{count} at once", [b"".join(many + bad)], rng.choice(["wait", "wait", "half", "reset"]), answers=count + len(bad))


def no_json(rng: random.Random) -> Case:
    path = rng.choice([*GOOD])
    body = rng.choice([
        b"", b" ", b"null", b"[]", b"1", b'"a"', b"{", b"{}", b"}", b"\xff\xfe{}", b"\xef\xbb\xbf{}", b"{'a': 1}", b"a=b&c=d",
        b"\0", b"{}{}",
        b"{} x", b"true", b"NaN", b'{"prompt": "\xff"}', b'{"prompt": "\xed\xa0\x80"}', b'{"\xff": 1}', b'{"prompt": "a\nb"}',
        b"[" * 200_000,
        b'{"a":' * 50_000, b"/**/{}", json.dumps(GOOD[path]).encode("utf-16"), b'{"prompt": "a", "prompt": 5}',
            b'{"model": 1, "model": "mini"}',
    ])  # fmt: skip
    return Case(f"no JSON {body[:20]!r}", [post(path, body)])


def unknown(rng: random.Random) -> Case:
    path = rng.choice([*GOOD])
    name = rng.choice(
        ["top_quark", "", "a\nb", "é" * 50, "__class__", "x" * 5000, "\ud800", "self", "model ", "functions", "audio"]
    )
    fields = {key: json.dumps(one) for key, one in GOOD[path].items()} | {name: rng.choice(VALUES[:60])}
    return Case(f"{path} {name[:20]!r}", [post(path, written(fields))])


def inside(rng: random.Random) -> Case:
    """A value of a good body, however deep, in whose place another stands."""
    path = rng.choice([*GOOD])
    mark = "@here@"
    body = json.loads(json.dumps(GOOD[path]))
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            places.append((value, key))
            if isinstance(one, (dict, list)):
                walk(one)

    walk(body)
    value, key = rng.choice(places)
    value[key] = mark
    text = json.dumps(body).replace(f'"{mark}"', rng.choice(VALUES))
    return Case(f"{path} {key!r}", [post(path, text.encode("utf-8", "surrogatepass"))])


def any_field(rng: random.Random) -> Case:
    return wrong_field(*rng.choice(wrong_fields()))


KINDS: tuple[Callable[[random.Random], Case], ...] = (
    random_bytes, damaged, damaged, truncated, in_pieces, gone, bad_line, odd_address, odd_method, upgrade, headers, endless,
    lengths,
    encodings, chunks, pipelined, no_json, unknown, inside, inside, any_field, any_field, any_field, any_field,
)  # fmt: skip


def cases(count: int, seed: int) -> Iterator[Case]:
    rng = random.Random(seed)
    return (rng.choice(KINDS)(rng) for _ in range(count))
