"""`/metrics`: what Prometheus reads, and that it counts what happened."""

from __future__ import annotations

import time

from prometheus_client.parser import text_string_to_metric_families as families

from brigade import LLM
from brigade.serve.app import App
from brigade.serve.limits import Limits
from brigade.serve.metrics import REASONS
from brigade.serve.refusals import LINES, Refusals
from tests.serve.raw import Wire, ask, becomes, request, wire
from tests.serve.servers import Running, serving


def samples(server: Running) -> dict[str, float]:
    """By their names, with labels other than the model's behind a colon."""
    reply = ask(server.port, "/metrics")
    assert reply.status == 200 and reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    found: dict[str, float] = {}
    for family in families(reply.body.decode()):
        assert family.name.startswith("brigade:") and family.documentation
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("model_name") == "mini", sample
            found[":".join([sample.name.removeprefix("brigade:"), *labels.values()])] = sample.value
    return found


def reasons(app: App) -> dict[str, float]:
    """What the protocol refused, by its reason."""
    label = {"model_name": "mini"}
    name = "brigade:connections_refused_total"
    return {one: app.metrics.registry.get_sample_value(name, label | {"reason": one}) for one in REASONS}


def test_what_the_protocol_refuses_is_counted_and_noted(llm: LLM) -> None:
    with serving(llm, limits=Limits(header_seconds=0.3, header_bytes=2000, connections=2)) as server:
        for sent, status, reason in (
            (b"nonsense\r\n\r\n", 400, "bad_request"), (request("/health", a="b" * 3000), 431, "headers_too_large"),
            (b"GET", 408, "timeout"),
        ):  # fmt: skip
            with wire(server.port) as one:
                one.send(sent)
                assert one.reply().status == status
            line = {"client": "127.0.0.1", "status": status, "error": reason}
            assert becomes(lambda line=line: server.lines[-1:] == [line]), server.lines
            assert becomes(lambda: not server.server.server_state.connections)
        with wire(server.port) as one, wire(server.port) as two:
            for held in (one, two):
                held.send(request("/version"))
                assert held.reply().status == 200
            with wire(server.port) as three:
                assert three.reply().status == 503
        assert becomes(lambda: server.lines[-1]["error"] == "busy") and len(server.lines) == 6
        assert reasons(server.app) == {"bad_request": 1, "headers_too_large": 1, "timeout": 1, "busy": 1, "tls": 0}
        assert becomes(lambda: not server.server.server_state.connections)
        assert samples(server)["connections_refused_total:busy"] == 1


def test_a_flood_of_refusals_is_counted_whole_and_noted_in_few_lines() -> None:
    now, counted, lines = [0.0], [], []
    made = Refusals(counted.append, lines.append, lambda: now[0])
    for place in range(1000):
        now[0] = place / 400
        made.note("10.0.0.1", "busy", 503)
    assert len(counted) == 1000 and len(lines) == 3 * LINES
    assert [line["unlogged"] for line in lines if "unlogged" in line] == [400 - LINES] * 2


def test_prompts_of_clients_that_leave_are_counted_as_far_as_they_were_read(llm: LLM) -> None:
    body = {"prompt": list(range(9, 150)), "max_tokens": 800, "ignore_eos": True, "cache_salt": "gone", "n": 2}
    with serving(llm) as server:
        for count, streams in enumerate((True, False), 1):
            one = Wire(server.port)
            one.send(request("/v1/completions", body | {"stream": streams}))
            assert becomes(lambda: llm.engine.num_running == 2)
            time.sleep(0.3)  # some words of the answer
            one.close()
            assert becomes(lambda count=count: len(server.lines) == count)
            assert server.lines[-1]["gone"] and server.lines[-1]["prompt_tokens"] == 141
        busy = Wire(server.port)
        busy.send(request("/v1/completions", {"prompt": "a", "n": 16, "max_tokens": 1000, "ignore_eos": True}))
        assert becomes(lambda: llm.engine.num_running == 16)
        one = Wire(server.port)
        one.send(request("/v1/completions", body))
        assert becomes(lambda: llm.engine.num_waiting == 2)
        one.close()
        assert becomes(lambda: len(server.lines) == 3)
        assert server.lines[-1]["prompt_tokens"] == 0, "it waited, and nothing of it was read"
        busy.close()
        assert becomes(lambda: len(server.lines) == 4)
        found = samples(server)
    assert found["prompt_tokens_total"] == 141 * 2 + 1 and found["request_cancelled_total"] == 4
    assert found["prefix_cache_queries_total"] == found["prefix_cache_hits_total"] == 0


def test_what_ended_is_counted(llm: LLM) -> None:
    with serving(llm) as server:
        before = samples(server)
        assert before["prompt_tokens_total"] == before["generation_tokens_total"] == 0
        body = {"prompt": list(range(9, 150)), "max_tokens": 6, "ignore_eos": True}
        ask(server.port, "/v1/completions", body | {"n": 2})
        ask(server.port, "/v1/completions", body | {"stream": True, "min_tokens": 2, "temperature": 0})
        ask(server.port, "/v1/completions", {"prompt": "a", "max_tokens": 5, "stop_token_ids": list(range(4096))})
        assert becomes(lambda: samples(server)["e2e_request_latency_seconds_count"] == 3)
        found = samples(server)
    assert found["prompt_tokens_total"] == found["prefix_cache_queries_total"] == 141 + 141 + 1
    assert found["generation_tokens_total"] == found["request_generation_tokens_sum"] == 12 + 6 + 1
    assert found["request_success_total:length"] == 3 and found["request_success_total:stop"] == 1
    assert found["time_to_first_token_seconds_count"] == 3 and found["request_prompt_tokens_sum"] == 283
    assert found["inter_token_latency_seconds_count"] == 19 - 4  # the first of each sample is no gap
    assert 128 <= found["prefix_cache_hits_total"] <= 283
    assert found["time_to_first_token_seconds_sum"] <= found["e2e_request_latency_seconds_sum"] < 60
    assert found["e2e_request_latency_seconds_bucket:+Inf"] == 3


def test_errors_are_counted_by_their_status(llm: LLM) -> None:
    with serving(llm) as server:
        for body in (b"{", b"[]"):
            ask(server.port, "/v1/completions", body)
        ask(server.port, "/nowhere")
        found = samples(server)
    assert found["request_errors_total:400"] == 2 and found["request_errors_total:404"] == 1
    assert found["e2e_request_latency_seconds_count"] == 0, "nothing of it ran"


def test_gauges_say_what_runs_now_and_clients_that_leave_are_counted(llm: LLM) -> None:
    with serving(llm) as server:
        idle = samples(server)
        assert (idle["num_requests_running"], idle["num_requests_waiting"], idle["kv_cache_usage_perc"]) == (0, 0, 0)
        one = Wire(server.port)
        one.send(request("/v1/completions", {"prompt": "a", "n": 20, "max_tokens": 1000, "ignore_eos": True}))
        assert becomes(lambda: samples(server)["num_requests_running"] == 16)
        busy = samples(server)
        assert busy["num_requests_waiting"] == 4 and 0 < busy["kv_cache_usage_perc"] <= 1
        one.close()
        assert becomes(lambda: samples(server)["num_requests_running"] == 0)
        assert becomes(lambda: samples(server)["request_cancelled_total"] == 1) and samples(server)["kv_cache_usage_perc"] == 0


def test_what_a_client_makes_up_becomes_no_label(llm: LLM) -> None:
    """Else anybody could make as many as memory holds."""
    with serving(llm) as server:

        def make_up(place: int) -> int:
            ask(server.port, f"/made-up/{place}", method="PUT" if place % 2 else "GET", x_request_id=f"id-{place}")
            ask(server.port, "/v1/completions", {"prompt": "a", "model": f"made-up-{place}"})
            return len(ask(server.port, "/metrics").body.splitlines())

        sizes = [make_up(place) for place in range(20)]
        assert sizes[1:] == sizes[:1] * 19
