"""Prompts from a file or from standard input: what is wrong with one is said with its place."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from brigade.cli.options import SAMPLING
from brigade.errors import RequestError, shown_as_json

NAMES = ("text", "prompt", "token_ids")


def read_prompts_file(path: str, base: dict[str, Any]) -> tuple[list[Any], list[dict[str, Any]]]:
    """One JSON object a line: `text` (or `prompt`) or `token_ids`, and any sampling parameter. `base`: parameters of every line,
    which a line's own go before."""
    prompts, settings = [], []
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise RequestError(f"{path}: {error.strerror}; give a file of prompts, one JSON object a line") from error
    for number, raw in enumerate(lines, start=1):
        if not raw.strip():
            continue
        try:
            prompt, own = _read_line(raw)
            _check(base | own)
        except RequestError as error:
            raise RequestError(f"{path}:{number} {error}") from error
        prompts.append(prompt)
        settings.append(base | own)
    if not prompts:
        raise RequestError(f'{path} holds no prompt; write one JSON object a line, such as {{"text": "def f("}}')
    return prompts, settings


def _read_line(raw: bytes) -> tuple[Any, dict[str, Any]]:
    """The prompt, and the parameters beside it."""
    try:
        line = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RequestError(f"is not UTF-8 (byte {raw[error.start]:#04x} at column {error.start}); mend it") from error
    except json.JSONDecodeError as error:
        raise RequestError(f"is not valid JSON ({error.msg} at column {error.colno}); mend the line") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets without end
        raise RequestError(f"is no JSON that can be read ({error}); mend the line") from error
    allowed = {*NAMES, "logit_bias", "extra", "constraint", *SAMPLING}
    wanted = "a line is an object with text or token_ids, and sampling parameters"
    if not isinstance(line, dict):
        raise RequestError(f"is {shown_as_json(line)}, which is no object; {wanted}")
    unknown = sorted(set(line) - allowed)
    if unknown:
        raise RequestError(f"has the unknown {'key' if len(unknown) == 1 else 'keys'} {', '.join(map(repr, unknown))}; {wanted}")
    given = {name: line.pop(name) for name in NAMES if name in line}
    if len(given) != 1:
        raise RequestError("must have exactly one of text, prompt or token_ids")
    ((name, prompt),) = given.items()
    _check_prompt(name, prompt)
    if "logit_bias" in line:
        line["logit_bias"] = _read_bias(line["logit_bias"])
    return prompt, line


def _check_prompt(name: str, prompt: Any) -> None:
    """A prompt under either name may be a text or ids."""
    if isinstance(prompt, str) and name != "token_ids":
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise RequestError(
                f"has half of a surrogate pair in {name} at {error.start}, which is no character; mend it"
            ) from error
        return
    if not isinstance(prompt, list) or not all(type(each) is int for each in prompt):
        wanted = "a list of ids" if name == "token_ids" else "a string or a list of ids"
        raise RequestError(f"has {shown_as_json(prompt)} as {name}; it must be {wanted}")


def _read_bias(given: Any) -> dict[int, Any]:
    """JSON has strings as keys."""
    if not isinstance(given, dict):
        raise RequestError(f'has {shown_as_json(given)} as logit_bias; it must be an object such as {{"42": -1.5}}')
    bias = {}
    for key, value in given.items():
        if not (key.isascii() and key.isdigit()) or len(key) > 18:
            raise RequestError(f'has {shown_as_json(key)} as a key of logit_bias; it must be a token id such as "42"')
        bias[int(key)] = value
    return bias


def _check(settings: dict[str, Any]) -> None:
    from brigade.engine.sampling.params import SamplingParams

    SamplingParams(**settings)


def read_stdin() -> str:
    raw = sys.stdin.buffer.read()
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"standard input is not UTF-8 (byte {raw[error.start]:#04x} at {error.start}); mend it") from error
