"""Thousands of requests that are wrong in every way: no crash, no status 500, nothing left behind, and nobody else is harmed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import psutil
import pytest

from brigade import LLM, SamplingParams
from tests.serve.malformed import Case, cases, wrong_field, wrong_fields
from tests.serve.raw import Broken, Reply, Wire, ask, becomes, is_error, read_replies, request
from tests.serve.servers import Running, serving

AT_ONCE = 24
QUIET = 0.3  # seconds without a word after which a client that waits stops to speak
MOST_GROWTH = 24 << 20  # bytes


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    """Short answers, whatever a request leaves out."""
    with LLM(max_batch_size=16, kv_blocks=64, max_model_len=128) as made:
        yield made


@pytest.fixture(scope="module")
def server(llm: LLM) -> Iterator[Running]:
    with serving(llm, origins=["*"]) as made:
        made.app.log = None
        yield made


async def play(case: Case, port: int) -> tuple[list[Reply], bytes, bool]:
    """What was answered, what was left behind the last whole answer, and whether the connection was broken off."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    data, is_broken = b"", False
    with contextlib.suppress(ConnectionError):
        for piece in case.pieces:
            writer.write(piece)
            if len(case.pieces) > 1:
                await asyncio.sleep(0)
        if case.then == "reset":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if case.then in ("reset", "close"):
            writer.close()
            return [], b"", True
        await writer.drain()
    try:
        has_spoken = False
        while True:
            replies, rest = read_replies(data, case.heads)
            if not has_spoken and (case.then == "half" or len(replies) >= case.answers):
                has_spoken = True
                writer.write_eof()
            try:
                more = await asyncio.wait_for(reader.read(1 << 16), 30 if has_spoken or rest else QUIET)
            except TimeoutError:
                assert not has_spoken, f"the connection stays open: {case}"
                has_spoken = is_broken = True
                writer.write_eof()
                continue
            if not more:
                break
            data += more
    except (ConnectionError, OSError):
        is_broken = True
    finally:
        writer.close()
    return *read_replies(data, case.heads), is_broken or case.then == "half"


def check(case: Case, replies: Sequence[Reply], rest: bytes, broken: bool) -> None:
    assert not rest or broken, (case, rest[:300])
    for reply in replies:
        assert reply.status != 500 and 200 <= reply.status < 600, (case, reply)
        if case.heads or reply.status == 204:
            continue
        if reply.status >= 400:
            assert reply.headers["content-type"] == "application/json" and is_error(reply.json), (case, reply)
            assert len(reply.body) < 8000, (case, len(reply.body))
        elif reply.headers["content-type"].startswith("text/event-stream"):
            assert reply.events[-1] == "[DONE]" and not any("error" in one for one in reply.events), (case, reply)
        elif reply.headers["content-type"] == "application/json":
            assert isinstance(reply.json, dict), (case, reply)


def play_all(many: Iterable[Case], port: int) -> Counter[int]:
    """Some at once. How often each status came."""
    found: Counter[int] = Counter()
    left = iter(many)

    async def one_after_another() -> None:
        for case in left:
            try:
                replies, rest, broken = await asyncio.wait_for(play(case, port), 60)
            except (Broken, TimeoutError) as error:
                raise AssertionError(f"{case}: {error!r}") from error
            check(case, replies, rest, broken)
            found.update(reply.status for reply in replies)

    async def together() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(one_after_another())

    asyncio.run(together())
    return found


@contextmanager
def healthy(llm: LLM, port: int) -> Iterator[list[int]]:
    """Somebody who asks all the while, whole and streaming, and knows the answers. How often, at the end."""
    params = [{"prompt": f"x{seed} = ", "max_tokens": 6, "seed": seed, "temperature": 1.0} for seed in range(8)]
    known = [
        llm.generate([one["prompt"]], SamplingParams(max_tokens=6, seed=one["seed"], temperature=1.0))[0].token_ids
        for one in params
    ]
    is_over, count, errors = threading.Event(), [0], []

    def run() -> None:
        made = Wire(port)
        try:
            while not is_over.is_set():
                place, streams = count[0] % len(params), count[0] % 3 == 0
                made.send(request("/v1/completions", params[place] | {"return_token_ids": True, "stream": streams}))
                reply = made.reply()
                ids = reply.token_ids if streams else reply.json["choices"][0]["token_ids"]
                assert ids == known[place], (ids, known[place])
                count[0] += 1
        except BaseException as error:
            errors.append(error)
        finally:
            made.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield count
    finally:
        is_over.set()
        thread.join(60)
    assert not errors and not thread.is_alive(), errors


def nothing_is_left(server: Running, llm: LLM) -> None:
    assert becomes(lambda: not server.server.server_state.connections and not server.server.server_state.tasks)
    assert server.app.desk.open == 0
    assert llm.thread.wait_idle(10)
    assert llm.engine.pool.num_free == llm.engine.pool.num_blocks and not llm.engine.has_work
    assert not server.app.desk.face._open


def threads() -> set[str]:
    """Those of the loop's pool come and stay; it has a bound."""
    return {one.name for one in threading.enumerate() if not one.name.startswith("asyncio_")}


def test_no_request_however_wrong_harms_the_server_or_others(server: Running, llm: LLM, capfd) -> None:
    llm.generate(["a"])
    before = threads()
    with healthy(llm, server.port) as count:
        found = play_all(cases(1200, seed=1), server.port)
    assert count[0] > 5 and found[200] > 100 and found[400] > 200 and {404, 405, 431} < set(found)
    nothing_is_left(server, llm)
    assert threads() == before
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("response_format", {"type": {}}, "response_format.type"), ("response_format", {"type": []}, "response_format.type"),
        *[("chat_template_kwargs", {name: 1}, "chat_template_kwargs") for name in ("self", "messages", "add_generation_prompt",
            "tools")],
        ("temperature", 10**400, "temperature"), ("stop", ["x" * 100_000, ""], "stop"), ("logit_bias", {"9" * 5000: 1},
        "logit_bias"),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused_by_its_name(server: Running, field: str, value: object, param: str) -> None:
    body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1, field: value}
    data = json.dumps(body).encode()
    reply = ask(server.port, "/v1/chat/completions", data)
    assert reply.status == 400 and is_error(reply.json) and len(reply.body) < 3000
    assert str(reply.json["error"]["param"]).startswith(param) or field == "temperature", reply
    if field == "chat_template_kwargs" and "tools" not in value:  # type: ignore[operator]
        again = ask(server.port, "/tokenize", {"messages": body["messages"], field: value})
        assert again.status == 400 and again.json["error"]["param"].split(".")[0] == param


@pytest.mark.slow
def test_ten_thousand_of_them_leave_the_memory_as_it_was(server: Running, llm: LLM) -> None:
    with healthy(llm, server.port) as count:
        play_all(cases(3000, seed=2), server.port)
        gc.collect()
        before = psutil.Process().memory_info().rss
        play_all(cases(10_000, seed=3), server.port)
        gc.collect()
        grown = psutil.Process().memory_info().rss - before
    assert count[0] > 100 and grown < MOST_GROWTH, grown
    nothing_is_left(server, llm)


@pytest.mark.slow
def test_every_field_with_every_kind_of_value(server: Running, llm: LLM) -> None:
    found = play_all((wrong_field(*one) for one in wrong_fields()), server.port)
    assert found[400] > 5000 and found[200] > 200
    nothing_is_left(server, llm)
