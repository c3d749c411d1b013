"""A dashboard over the server's metrics: `python -m docs.dashboard` writes docs/grafana.json, which Grafana imports."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).with_name("grafana.json")

SOURCE = {"type": "prometheus", "uid": "${source}"}
OF_MODEL = '{model_name=~"$model"}'
WIDTH, HEIGHT = 24, 8  # Grafana's columns, and the height of a panel


@dataclass(frozen=True, slots=True)
class Panel:
    """`lines`: what each is called, and its query."""

    title: str
    words: str
    unit: str
    lines: dict[str, str]
    columns: int = 8


def rate(metric: str, by: str = "") -> str:
    inner = f"rate(brigade:{metric}{OF_MODEL}[$__rate_interval])"
    return f"sum by ({by}) ({inner})" if by else f"sum({inner})"


def now(metric: str) -> str:
    return f"sum(brigade:{metric}{OF_MODEL})"


def quantile(metric: str, share: float) -> str:
    return f"histogram_quantile({share:g}, {rate(f'{metric}_bucket', 'le')})"


def quantiles(metric: str, *shares: float) -> dict[str, str]:
    return {f"p{share * 100:g}": quantile(metric, share) for share in shares}


PANELS = (
    Panel(
        "Tokens a second", "What was read of prompts and what was generated.", "short",
        {"prompts": rate("prompt_tokens_total"), "answers": rate("generation_tokens_total")}, 12,
    ),
    Panel(
        "Samples in the batch and waiting", "Waiting ones that grow in number: more is asked than this server can do.", "short",
        {"running": now("num_requests_running"), "waiting": now("num_requests_waiting")}, 12,
    ),
    Panel(
        "Time to the first token", "From the request to its first token.", "s",
        quantiles("time_to_first_token_seconds", 0.5, 0.95, 0.99),
    ),
    Panel("Between tokens", "From one token to the next.", "s", quantiles("inter_token_latency_seconds", 0.5, 0.95, 0.99)),
    Panel("Whole request", "From the request to its end.", "s", quantiles("e2e_request_latency_seconds", 0.5, 0.95, 0.99)),
    Panel(
        "KV cache", "Blocks that are held. Near all of them, requests wait or are preempted.", "percentunit",
        {"used": f"max(brigade:kv_cache_usage_perc{OF_MODEL})"},
    ),
    Panel(
        "Prefix cache", "Share of the prompts' tokens that need not be computed again.", "percentunit",
        {"hits": f"{rate('prefix_cache_hits_total')} / {rate('prefix_cache_queries_total')}"},
    ),
    Panel("Preemptions a second", "Requests that gave up their place to others.", "short", {"all": rate("num_preemptions_total")}),
    Panel(
        "Answers a second", "By the reason of their end.", "short",
        {"{{finished_reason}}": rate("request_success_total", "finished_reason")},
    ),
    Panel(
        "Refused, failed and left", "By the status of the answer; clients that went away before its end.", "short",
        {"{{status}}": rate("request_errors_total", "status"), "went away": rate("request_cancelled_total")},
    ),
    Panel(
        "Connections refused", "By the reason: too many, no HTTP, headers too long or late, a failed TLS handshake.", "short",
        {"{{reason}}": rate("connections_refused_total", "reason")},
    ),
    Panel("Replicas", "Those that work, where the server asks a coordinator.", "short", {"work": now("num_replicas")}),
    Panel("Tokens of a prompt", "Of all prompts of a request.", "short", quantiles("request_prompt_tokens", 0.5, 0.95), 12),
    Panel("Tokens of an answer", "Of all answers of a request.", "short", quantiles("request_generation_tokens", 0.5, 0.95), 12),
)  # fmt: skip


def panel(number: int, one: Panel, x: int, y: int) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + place), "datasource": SOURCE, "expr": query, "legendFormat": name}
        for place, (name, query) in enumerate(one.lines.items())
    ]
    return {
        "id": number, "type": "timeseries", "title": one.title, "description": one.words, "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": one.columns, "h": HEIGHT}, "targets": targets,
        "fieldConfig": {"defaults": {"unit": one.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
    }  # fmt: skip


def dashboard() -> dict[str, Any]:
    panels, x, y = [], 0, 0
    for number, one in enumerate(PANELS, 1):
        if x + one.columns > WIDTH:
            x, y = 0, y + HEIGHT
        panels.append(panel(number, one, x, y))
        x += one.columns
    models = "label_values(brigade:generation_tokens_total, model_name)"
    return {
        "uid": "brigade-serve", "title": "Brigade", "tags": ["brigade"], "schemaVersion": 39, "version": 1, "editable": True,
        "timezone": "browser", "refresh": "10s", "time": {"from": "now-1h", "to": "now"}, "panels": panels,
        "templating": {
            "list": [
                {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
                {
                    "name": "model", "label": "Model", "type": "query", "datasource": SOURCE, "query": models, "definition": models,
                    "refresh": 2, "includeAll": True, "multi": True, "allValue": ".*",
                    "current": {"text": "All", "value": "$__all"},
                },
            ]
        },
    }  # fmt: skip


def text() -> str:
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    DASHBOARD.write_text(text())
