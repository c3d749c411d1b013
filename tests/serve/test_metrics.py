"""`/metrics`: what Prometheus reads, and that it counts what happened."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families as families

from brigade import LLM
from tests.serve.raw import Wire, ask, becomes, request
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
