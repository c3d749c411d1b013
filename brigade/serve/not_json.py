"""Why a body is no JSON, and what to send instead: of the usual mistakes in usual words, of others in those of the parser."""

from __future__ import annotations

import re

from brigade.serve.errors import ApiError

# Escapes of the characters that take two, and halves of them.
_PAIRS = re.compile(rb"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\u[dD][89a-fA-F]..")
_FORM = re.compile(rb"[\w.%+\[\]-]+=|--\S+\r?\n")
_GZIP, _MARK, _WIDE = b"\x1f\x8b", b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")


def not_json(data: bytes, error: Exception) -> ApiError:
    why, remedy = _reason(data, error)
    return ApiError(400, f"the body is not valid JSON ({why}); {remedy}")


def _reason(data: bytes, error: Exception) -> tuple[str, str]:
    said, one = str(error), "send one JSON object"
    if data.startswith(_GZIP):
        return "it is compressed by gzip", "send it uncompressed"
    if data.startswith(_MARK):
        return "it begins with a byte order mark", "send it without one"
    if data.startswith(_WIDE):
        return "it is UTF-16", "send it as UTF-8"
    if _FORM.match(data):
        return "it looks like a form", 'send one JSON object, such as {"prompt": "import "}'
    if isinstance(error, UnicodeDecodeError):
        return "a text in it is not UTF-8", "send it as UTF-8"
    if ("truncated" in said or "surrogate" in said) and any(len(one) == 6 for one in _PAIRS.findall(data)):
        return "an escape such as \\ud83d is half of a character", "send both halves, or the character itself"
    if "truncated" in said:
        return "it ends before its object does", "send all of it"
    if "out of range" in said:
        return "a number in it is too large", "send one that a double or 64 bits can hold"
    return said.removeprefix("JSON is malformed: "), one
