"""The metrics and the dashboard over them: it asks for what the server says, and leaves nothing of it out."""

from __future__ import annotations

import json
import re
from itertools import combinations

import httpx
from prometheus_client.parser import text_string_to_metric_families

from brigade import LLM
from brigade.serve.metrics import WORDS
from docs.dashboard import DASHBOARD, WIDTH, text
from tests.serve.servers import serving

FOUND = json.loads(DASHBOARD.read_text())
EXPRESSIONS = [target["expr"] for panel in FOUND["panels"] for target in panel["targets"]]
ASKED = set(re.findall(r"brigade:\w+", " ".join(EXPRESSIONS)))
ELSEWHERE = {"brigade:num_replicas"}  # of a server before a coordinator


def families(page: str):
    return {family.name: family for family in text_string_to_metric_families(page)}


def test_the_metrics_count_what_was_asked_and_said(llm: LLM) -> None:
    with serving(llm) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        for _ in range(2):  # the second finds the prompt in the prefix cache
            client.post(
                "/v1/completions", json={"prompt": [5] * 200, "max_tokens": 7, "n": 2, "ignore_eos": True, "cache_salt": "m"}
            )
        client.post("/v1/completions", json={"prompt": "a", "top_quark": 1})
        answer = client.get("/metrics")
        found = families(answer.text)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")

    def value(name: str, **labels: str) -> float:
        family = found[f"brigade:{name}".removesuffix("_total").removesuffix("_count").removesuffix("_sum")]
        wanted = {"model_name": "mini", **labels}
        (sample,) = [one for one in family.samples if one.name == f"brigade:{name}" and one.labels == wanted]
        return sample.value

    assert value("prompt_tokens_total") == 400 and value("generation_tokens_total") == 28
    assert value("prefix_cache_queries_total") == 400 and value("prefix_cache_hits_total") >= 128
    assert value("request_success_total", finished_reason="length") == 4
    assert value("request_errors_total", status="400") == 1 and value("request_cancelled_total") == 0
    assert value("num_preemptions_total") == 0 and value("num_requests_running") == value("num_requests_waiting") == 0
    assert value("time_to_first_token_seconds_count") == value("e2e_request_latency_seconds_count") == 2
    assert value("inter_token_latency_seconds_count") == 4 * 6
    assert value("request_prompt_tokens_sum") == 400 and value("request_generation_tokens_sum") == 28
    assert 0 <= value("kv_cache_usage_perc") <= 1


def names_of(llm: LLM) -> set[str]:
    """Of all samples that a server says, and of those that a server before a coordinator says beside them."""
    with serving(llm) as server:
        httpx.post(f"{server.url}/v1/completions", json={"prompt": "a", "max_tokens": 1})
        httpx.post(f"{server.url}/v1/completions", json={"prompt": "a", "n": 0})
        found = families(httpx.get(f"{server.url}/metrics").text).values()
    return {sample.name for family in found for sample in family.samples} | ELSEWHERE


def base(name: str) -> str:
    return re.sub(r"_(bucket|count|sum|created|total)$", "", name)


def test_the_dashboard_asks_for_metrics_that_are_there_and_for_all_of_them(llm: LLM) -> None:
    names = names_of(llm)
    assert names >= ASKED, f"the dashboard asks for {sorted(ASKED - names)}, which no server says"
    left_out = {base(name) for name in names} - {base(name) for name in ASKED}
    assert not left_out, f"give {sorted(left_out)} a panel in docs/dashboard.py"
    assert {f"brigade:{name}" for name in WORDS} <= ASKED


def test_the_committed_dashboard_is_of_this_source() -> None:
    assert DASHBOARD.read_text() == text(), "run `python -m docs.dashboard`"


def test_it_is_a_dashboard_that_grafana_imports() -> None:
    assert FOUND["title"] and FOUND["uid"] and FOUND["schemaVersion"] >= 36
    variables = {one["name"]: one["type"] for one in FOUND["templating"]["list"]}
    assert variables == {"source": "datasource", "model": "query"}
    panels = FOUND["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels) >= 10
    for panel in panels:
        assert panel["type"] == "timeseries" and panel["targets"] and panel["description"].endswith(".")
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for target in [panel, *panel["targets"]]:
            assert target["datasource"] == {"type": "prometheus", "uid": "${source}"}
        place = panel["gridPos"]
        assert place["x"] >= 0 and place["x"] + place["w"] <= WIDTH and place["h"] > 0
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert apart or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


def test_every_query_is_closed_and_of_the_chosen_model() -> None:
    for query in EXPRESSIONS:
        assert all(query.count(left) == query.count(right) for left, right in ("()", "[]", "{}"))
        assert len(re.findall(r'brigade:\w+\{model_name=~"\$model"\}', query)) == query.count("brigade:")
