"""`/openapi.json`: the fields that are read, made from the types that read them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from brigade.serve.chat import ChatBody
from brigade.serve.completions import CompletionBody
from brigade.serve.tokens import DetokenizeBody, TokenizeBody

BODIES: dict[str, tuple[type, str]] = {
    "/v1/completions": (CompletionBody, "Continue prompts"),
    "/v1/chat/completions": (ChatBody, "Answer a conversation"),
    "/tokenize": (TokenizeBody, "The token ids of a text or of a conversation"),
    "/detokenize": (DetokenizeBody, "The text of token ids"),
}
PAGES = {
    "/v1/models": "The names under which the model is served", "/health": "Whether the engine steps",
    "/ready": "Whether new requests are taken", "/version": "Of this server", "/metrics": "For Prometheus",
}  # fmt: skip
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def document(needs_key: bool = False, open_to_all: Collection[str] = ()) -> dict[str, Any]:
    """`needs_key`: without it a key may be left out. `open_to_all`: addresses that are asked without one."""
    from brigade import __version__

    _, schemas = msgspec.json.schema_components([body for body, _ in BODIES.values()], ref_template="#/components/schemas/{name}")
    paths: dict[str, Any] = {}
    for path, (body, words) in BODIES.items():
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}}
        kinds: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
        if path in ("/v1/completions", "/v1/chat/completions"):
            kinds["text/event-stream"] = {"schema": {"type": "string"}}
        paths[path] = {"post": _operation(path, words, kinds) | {"requestBody": {"required": True, "content": content}}}
    for path, words in PAGES.items():
        kind = "text/plain" if path == "/metrics" else "application/json"
        paths[path] = {"get": _operation(path, words, {kind: {"schema": {}}}) | ({"security": []} if path in open_to_all else {})}
    return {
        "openapi": "3.1.0", "info": {"title": "Brigade", "version": __version__}, "paths": paths,
        "security": [{"key": []}, *([] if needs_key else [{}])],
        "components": {
            "schemas": schemas | {"Error": ERROR}, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }  # fmt: skip


def _operation(path: str, words: str, answers: dict[str, Any]) -> dict[str, Any]:
    name = path.strip("/").replace("/", "_")
    answer = {"description": "The answer", "content": answers}
    return {"summary": words, "operationId": name, "responses": {"200": answer, "default": _error()}}


def _error() -> dict[str, Any]:
    return {"description": "An error", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
