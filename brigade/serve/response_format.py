"""What an answer must look like: OpenAI's `response_format`, or a `constraint` as `SamplingParams` takes it."""

from __future__ import annotations

from typing import Any

from brigade.errors import shown_as_json as shown
from brigade.serve.errors import ApiError


def constraint_of(response_format: dict[str, Any] | None, constraint: dict[str, Any] | None) -> dict[str, Any] | None:
    """The sampling parameter `constraint`, or None."""
    wanted = None if response_format is None else _of_format(response_format)
    if wanted is not None and constraint is not None:
        raise ApiError(400, "response_format and constraint both say what the answer must look like; give one", "constraint")
    return constraint if wanted is None else wanted


def _of_format(given: dict[str, Any]) -> dict[str, Any] | None:
    kind = given.get("type")
    allowed = {"text": {"type"}, "json_object": {"type"}, "json_schema": {"type", "json_schema"}}
    if not isinstance(kind, str) or kind not in allowed:
        raise ApiError(
            400, f"response_format.type is {shown(kind)}; text, json_object and json_schema are known", "response_format.type"
        )
    _refuse_others(given, allowed[kind], "response_format")
    if kind == "text":
        return None
    if kind == "json_object":
        return {"json_object": True}
    described = given.get("json_schema")
    if not isinstance(described, dict):
        raise ApiError(400, "response_format.json_schema is missing; give its name and schema", "response_format.json_schema")
    _refuse_others(described, {"name", "description", "schema", "strict"}, "response_format.json_schema")
    schema = described.get("schema")
    if not isinstance(schema, (dict, bool)):
        raise ApiError(400, "response_format.json_schema.schema is missing; give it", "response_format.json_schema.schema")
    return {"json_schema": schema}


def _refuse_others(given: dict[str, Any], known: set[str], where: str) -> None:
    for name in given:
        if name not in known:
            raise ApiError(
                400, f"{where}.{name[:60]} is not a field that this server knows here; drop it", f"{where}.{name[:60]}",
                "unknown_parameter",
            )  # fmt: skip
