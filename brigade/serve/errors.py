"""What goes wrong over HTTP, in the shape that OpenAI's clients read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from brigade.engine.outputs import Delta, Sample
from brigade.engine.sampling.params import PARAMETERS
from brigade.errors import (
    CheckpointError,
    CoordinatorSilent,
    EngineStopped,
    FailureKind,
    ModelReplaced,
    RequestError,
    in_one_line,
)

LONGEST = 1000  # characters of a message, which may repeat what a client sent
KINDS = {429: "rate_limit_error"}
NO_NAMES: Mapping[str, str] = {}
FIELDS = {
    *PARAMETERS, "messages", "max_completion_tokens", "response_format", "tools", "tool_choice", "parallel_tool_calls",
    "chat_template_kwargs", "reasoning_effort",
}  # fmt: skip


class ApiError(Exception):
    """An answer that is an error. `param`: the field that is to blame; `code`: one word for programs; `retry_after`: seconds;
    `allow`: the methods of the address, where another was used."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None, retry_after: int | None = None,
        allow: str | None = None,
    ) -> None:  # fmt: skip
        message = message if len(message) <= LONGEST else f"{message[:LONGEST]}..."
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_after = status, message, param, code, retry_after
        self.allow = allow

    @property
    def body(self) -> dict[str, Any]:
        kind = KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        found = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        found |= {} if self.allow is None else {"allow": self.allow}
        return found | ({"www-authenticate": "Bearer"} if self.status == 401 else {})


def as_api_error(error: BaseException, names: Mapping[str, str] = NO_NAMES) -> ApiError:
    """Of whatever was raised while a request was read or run. `names`: what the request calls otherwise than the engine does."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestError):
        text, param = _named(error, names)
        if error.kind == "busy":
            return ApiError(503, text, code="busy", retry_after=5)
        if error.kind == "crowded":
            return ApiError(429, text, code="rate_limit_exceeded", retry_after=1)
        return ApiError(400, text, param, "context_length_exceeded" if error.kind == "too long" else None)
    if isinstance(error, CheckpointError):  # the model's own chat template is broken, which was said when the server started
        return ApiError(400, str(error), "messages")
    if isinstance(error, CoordinatorSilent):
        return ApiError(503, str(error), code="no_coordinator", retry_after=5)
    if isinstance(error, ModelReplaced):
        return ApiError(503, str(error), code="no_replica", retry_after=1)
    if isinstance(error, EngineStopped):
        return ApiError(503, str(error), code="engine_stopped", retry_after=5)
    return ApiError(500, f"an error of this server ({in_one_line(error)}); its log has more", code="internal_error")


@contextmanager
def told_by(names: Mapping[str, str]) -> Iterator[None]:
    """A refusal inside is told by the names of its request."""
    try:
        yield
    except RequestError as error:
        raise as_api_error(error, names) from error


FAILURES: Mapping[FailureKind, tuple[str, int]] = {  # the code, and seconds after which another try may go on
    "no replica": ("no_replica", 5), "replaced": ("no_replica", 1), "stopped": ("engine_stopped", 5),
}  # fmt: skip


def request_failed(end: Delta | Sample) -> ApiError:
    """Of an answer that could not go on. What it failed of may be nothing that the request could mend."""
    error = end.error or "this request could not go on"
    if end.error_kind is None:
        return ApiError(500, error, code="request_failed")
    code, retry = FAILURES[end.error_kind]
    return ApiError(503, error, code=code, retry_after=retry)


def _named(error: RequestError, names: Mapping[str, str]) -> tuple[str, str | None]:
    """What a refusal says and the field that it is about, by the names of the request."""
    text = str(error)
    for ours, theirs in names.items():
        if "_" in ours:  # else it is a usual word too; what stands in quotes is the client's
            text = re.sub(rf"(?<![\w.\"'])({re.escape(ours)})(?![\w\"'])", theirs, text)
    return text, names.get(error.param, error.param) if error.param is not None else _begins_with(text, names)


def _begins_with(text: str, names: Mapping[str, str]) -> str | None:
    """The field that a refusal begins with, in whole, such as messages[0].role."""
    found = re.match(r"(?:prompt \d+: )?(([a-z_]+)(?:\.[\w$-]+|\[\d+\])*):? ", text)
    if found is None or found[2] not in FIELDS:
        return None
    return names.get(found[1], found[1])
