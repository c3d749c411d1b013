"""Chat templates: messages to the text of a prompt, as Hugging Face folders describe it."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from brigade.errors import CheckpointError, RequestError

if TYPE_CHECKING:
    import jinja2


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class ChatTemplate:
    """One or several named templates, and the special tokens (`bos_token`, ...) that they may write.

    Templates come with checkpoints from anywhere, so they run in jinja's sandbox. jinja is imported at the first use.
    """

    def __init__(self, templates: dict[str, str], special_tokens: dict[str, str]) -> None:
        assert templates
        self._sources = dict(templates)
        self._special_tokens = dict(special_tokens)
        self._compiled: dict[str, tuple[jinja2.Template, frozenset[str]]] = {}

    def render(self, messages: list[dict[str, Any]], add_generation_prompt: bool = True, **extra: Any) -> str:
        """The prompt's text. A variable in `extra` that the template never reads is refused; None is always fine."""
        _check_messages(messages)
        name = self._choose(extra.get("tools") is not None)
        template, reads = self._compile(name)
        for key, value in extra.items():
            if value is not None and key not in reads:
                known = ", ".join(sorted(reads)) or "none"
                raise RequestError(f"the chat template does not read {key!r}; leave it out (it reads {known})")
        import jinja2

        # Templates ask `tools is not none`, which an undefined variable would answer wrongly.
        variables = {"tools": None, "documents": None, **self._special_tokens, **extra}
        try:
            return template.render(messages=messages, add_generation_prompt=add_generation_prompt, **variables)
        except (jinja2.TemplateError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise RequestError(f"the chat template refuses these messages: {_one_line(error)}", "messages") from error

    def check(self) -> None:
        """Refuses templates that are no Jinja, which is else found at the first conversation."""
        for name in self._sources:
            self._compile(name)

    def source(self, with_tools: bool = False) -> str:
        """The text of the template that would be used."""
        return self._sources[self._choose(with_tools)]

    def reads(self, with_tools: bool = False) -> frozenset[str]:
        """The variables that the template which would be used reads: `enable_thinking` and others of its own."""
        return self._compile(self._choose(with_tools))[1]

    def _choose(self, with_tools: bool) -> str:
        if with_tools and "tool_use" in self._sources:
            return "tool_use"
        if "default" not in self._sources:
            raise CheckpointError(
                f"no chat template is named 'default', only {', '.join(sorted(self._sources))}; rename one in tokenizer_config.json"
            )
        return "default"

    def _compile(self, name: str) -> tuple[jinja2.Template, frozenset[str]]:
        if name not in self._compiled:
            import jinja2
            from jinja2 import meta

            environment = _environment()
            try:
                reads = meta.find_undeclared_variables(environment.parse(self._sources[name]))
                template = environment.from_string(self._sources[name])
            except (jinja2.TemplateError, RecursionError) as error:
                where = f", line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
                raise CheckpointError(
                    f"the chat template {name!r} is not valid jinja{where}: {_one_line(error)}; mend it, or give another to "
                    "`brigade serve` by --chat-template FILE"
                ) from error
            self._compiled[name] = template, frozenset(reads - environment.globals.keys())
        return self._compiled[name]


def _check_messages(messages: list[dict[str, Any]]) -> None:
    if not isinstance(messages, (list, tuple)):
        raise RequestError(f"messages is {messages!r}; give a list of {{'role': ..., 'content': ...}}")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise RequestError(f"messages[{index}] is {message!r}; give {{'role': ..., 'content': ...}}")


def _environment() -> jinja2.Environment:
    """What templates written for `transformers` count on: its block trimming, tags, filters and functions."""
    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks what the assistant says, for training; here its body is simply written."""

        tags = {"generation"}

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def to_json(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        # jinja's own filter escapes for HTML, which a prompt is not.
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    return environment
