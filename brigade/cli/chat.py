"""`brigade chat`: a conversation in the terminal, through the model's own template."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from brigade.cli.options import add_model_options, add_sampling_options, admits, make_llm, sampling_settings, with_defaults
from brigade.errors import ConfigError, RequestError

HELP = "/reset forgets, /system TEXT sets the system message, /exit leaves"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--system", help="a system message")
    parser.add_argument("--drop-oldest", action="store_true", help="forget the oldest turns when the history is too long")
    add_model_options(parser)
    add_sampling_options(parser)


def run(args: argparse.Namespace) -> int:
    from brigade.engine.sampling.params import SamplingParams

    settings = {"max_tokens": 128} | sampling_settings(args)
    if settings.get("n", 1) != 1:
        raise RequestError(f"n is {settings['n']}; a chat has one answer: drop --n")
    if args.max_waiting is not None:
        raise ConfigError("--max-waiting has no effect on chat, which asks one thing at a time; drop it")
    SamplingParams(**settings)  # wrong values are refused before the model is loaded
    llm = make_llm(args, check=lambda blueprint, plan: _check(blueprint, plan, settings))
    (params,) = with_defaults(llm, [settings])
    terminal = sys.stdin.isatty()
    if terminal:
        print(f"{llm.name}: {HELP}")
    messages = [{"role": "system", "content": args.system}] if args.system else []
    all_answered = True
    while True:
        try:
            line = input("> " if terminal else "")
        except EOFError:
            return 0 if terminal or all_answered else 1  # a script should know
        except UnicodeDecodeError as error:
            raise RequestError(f"the line is not UTF-8 ({error.reason}); type it again") from error
        word, _, rest = line.partition(" ")
        if word == "/exit":
            return 0 if terminal or all_answered else 1
        if word == "/reset":
            messages = [m for m in messages if m["role"] == "system"]
        elif word == "/system":
            messages = [{"role": "system", "content": rest}]
        elif word.startswith("/"):
            print(f"unknown command {word}; {HELP}")
        elif line.strip():
            all_answered = _turn(llm, messages, line, params, args.drop_oldest) and all_answered


def _check(blueprint: Any, plan: Any, settings: dict[str, Any]) -> None:
    """Before the weights are read: the model has a template, and room for an answer to a short question."""
    from brigade.engine.prompt import write_chat

    admits([write_chat([{"role": "user", "content": "x"}], blueprint.tokenizer)], [settings])(blueprint, plan)


def _turn(llm: Any, messages: list[dict[str, str]], line: str, params: Any, drop_oldest: bool) -> bool:
    """One question and its streamed answer, and whether there was one; a refused question leaves the history as it was."""
    asked = [*messages, {"role": "user", "content": line}]
    while True:
        try:
            stream = llm.stream(llm.chat_prompt(asked), params)
            break
        except RequestError as error:
            oldest = next((i for i, m in enumerate(asked[:-1]) if m["role"] != "system"), None)
            if drop_oldest and oldest is not None:
                del asked[oldest]
                continue
            remedy = "" if oldest is None else " (or /reset, or start with --drop-oldest)"  # there is nothing to forget
            print(f"{error}{remedy}", file=sys.stderr)
            return False
    said, error = [], None
    try:
        for delta in stream:
            said.append(delta.text)
            error = delta.error
            print(delta.text, end="", flush=True)
    except KeyboardInterrupt:  # ends the answer, not the conversation
        stream.close()
    print()
    if error is not None:
        print(f"{error} (the question is forgotten)", file=sys.stderr)
        return False
    messages[:] = [*asked, {"role": "assistant", "content": "".join(said)}]
    return True
