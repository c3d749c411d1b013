"""Chat templates: a sandboxed jinja2 environment with the few names that published templates expect."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from brigade.errors import RequestError


class ChatTemplate:
    def __init__(self, source: str, names: Mapping[str, str]) -> None:
        from jinja2 import TemplateSyntaxError
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            self._template = environment.from_string(source)
        except TemplateSyntaxError as error:
            raise RequestError(f"the chat template does not parse: {error}; give a prompt instead of messages") from error
        self._names = dict(names)

    def render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool, **extra: Any) -> str:
        from jinja2 import TemplateError

        try:
            return self._template.render(
                messages=messages, add_generation_prompt=add_generation_prompt, **self._names, **extra
            )
        except TemplateError as error:
            raise RequestError(f"the chat template refuses these messages: {error}") from error


def _tojson(value: Any, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


def _refuse(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)
