"""What goes wrong over HTTP, in the shape that OpenAI's clients read."""

from __future__ import annotations

import re
from typing import Any

from brigade.errors import CoordinatorSilent, EngineStopped, ModelReplaced, RequestError, in_one_line

LONGEST = 1000  # characters of a message, which may repeat what a client sent
KINDS = {429: "rate_limit_error"}


class ApiError(Exception):
    """An answer that is an error. `param`: the field that is to blame; `code`: one word for programs; `retry_after`: seconds."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None, retry_after: int | None = None
    ) -> None:
        message = message if len(message) <= LONGEST else f"{message[:LONGEST]}..."
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_after = status, message, param, code, retry_after

    @property
    def body(self) -> dict[str, Any]:
        kind = KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        found = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        return found | ({"www-authenticate": "Bearer"} if self.status == 401 else {})


def as_api_error(error: BaseException) -> ApiError:
    """Of whatever was raised while a request was read or run."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestError):
        text = str(error)
        if "is draining" in text or "take too long to compile" in text:
            return ApiError(503, text, code="busy", retry_after=5)
        if "exceed the limit of" in text and "positions" in text:
            return ApiError(400, text, code="context_length_exceeded")
        if re.match(r"\d+ requests wait and |\d+ requests (of this client )?are open; max_requests", text):
            return ApiError(429, text, code="rate_limit_exceeded", retry_after=1)
        return ApiError(400, text, param=_named(text))
    if isinstance(error, CoordinatorSilent):
        return ApiError(503, str(error), code="no_coordinator", retry_after=5)
    if isinstance(error, ModelReplaced):
        return ApiError(503, str(error), code="no_replica", retry_after=1)
    if isinstance(error, EngineStopped):
        return ApiError(503, str(error), code="engine_stopped", retry_after=5)
    return ApiError(500, f"an error of this server ({in_one_line(error)}); its log has more", code="internal_error")


def request_failed(error: str | None) -> ApiError:
    """Of an answer that could not go on. Without a replica that is nothing which the request could mend."""
    if error is not None and error.startswith("there was no replica"):
        return ApiError(503, error, code="no_replica", retry_after=5)
    return ApiError(500, error or "this request could not go on", code="request_failed")


def _named(text: str) -> str | None:
    """The parameter that a refusal begins with: "temperature is 7; ...", "logit_bias names token -1; ..."."""
    found = re.match(r"([a-z_]+) (?:is|names|of token) ", text)
    return None if found is None else found[1]
