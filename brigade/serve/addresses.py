"""Addresses of other servers that are not there, so that a program which asks for one is told so, and what there is."""

from __future__ import annotations

from collections.abc import Sequence

from brigade.serve.errors import ApiError

# What lies below one of them is not there either.
NOT_SERVED = {
    "OpenAI's": (
        "/v1/responses", "/v1/conversations", "/v1/embeddings", "/v1/moderations", "/v1/images", "/v1/audio", "/v1/realtime",
        "/v1/files", "/v1/batches", "/v1/fine_tuning", "/v1/assistants", "/v1/threads", "/v1/vector_stores",
    ),
    "Anthropic's": ("/v1/messages",),
    "vLLM's": ("/pooling", "/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank", "/classify", "/ping"),
    "llama.cpp's": (
        "/completion", "/completions", "/chat/completions", "/infill", "/embedding", "/embeddings", "/props", "/slots",
        "/apply-template",
    ),
    "Ollama's": ("/api",),
}  # fmt: skip


def nothing_at(path: str, there: Sequence[str]) -> ApiError:
    """`there`: the addresses that are."""
    shown = path[:200]
    for whose, paths in NOT_SERVED.items():
        if any(path == one or path.startswith(f"{one}/") for one in paths):
            listed = ", ".join(there)
            return ApiError(404, f"{shown}, of {whose} API, is not served here; the addresses are {listed}", code="not_found")
    return ApiError(404, f"there is nothing at {shown}; docs/serve.md lists the addresses", code="not_found")
