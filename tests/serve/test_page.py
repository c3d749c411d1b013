"""docs/serve.md is true: its tables are the fields that are read, each with a test that is there; its commands are answered."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import fields
from pathlib import Path

import httpx
import msgspec
import pytest

from brigade import LLM, SamplingParams
from brigade.cli import foreign_options
from brigade.cli.main import make_parser
from brigade.serve import other_servers
from brigade.serve.addresses import NOT_SERVED
from brigade.serve.chat import ChatBody
from brigade.serve.completions import CompletionBody
from brigade.serve.fields import HARMLESS, MOST_SAMPLES, OTHER_NAMES, Body
from brigade.serve.limits import MOST_BIASES, MOST_LOGPROBS, MOST_STOP_CHARACTERS, MOST_STOP_IDS, MOST_TOKENS, Limits
from brigade.serve.openapi import BODIES, PAGES
from brigade.serve.tokens import DetokenizeBody, TokenizeBody
from tests.serve.servers import Running

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/serve.md").read_text()
README = (ROOT / "README.md").read_text()
COMING = (ROOT / "docs/coming_from.md").read_text()


def table(heading: str, page: str = PAGE) -> list[list[str]]:
    """The rows of the first table under a heading."""
    section = re.split(r"\n##+ ", page.split(f"# {heading}\n", 1)[1])[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def named(struct: type) -> set[str]:
    return {field.name for field in msgspec.structs.fields(struct)}


TABLES = {
    "Fields of completions and chats": named(Body),
    "Fields of completions": named(CompletionBody) - named(Body),
    "Fields of chats": named(ChatBody) - named(Body),
    "Fields of /tokenize": named(TokenizeBody),
    "Fields of /detokenize": named(DetokenizeBody),
}


@pytest.mark.parametrize("heading", TABLES)
def test_a_table_has_every_field_that_is_read_and_no_other(heading: str) -> None:
    rows = [row[0].strip("`") for row in table(heading)]
    assert len(rows) == len(set(rows)) and set(rows) == TABLES[heading]


def test_every_kind_of_body_has_its_table() -> None:
    assert {body for body, _ in BODIES.values()} == {CompletionBody, ChatBody, TokenizeBody, DetokenizeBody}


def names_of_tests() -> set[str]:
    found = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        found |= {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}
    return found


@pytest.mark.parametrize("heading", ["Addresses", *TABLES])
def test_every_row_names_a_test_that_is_there(heading: str) -> None:
    there = names_of_tests()
    for row in table(heading):
        assert row[2].startswith("`test_") and row[2].strip("`") in there, (
            f"{row[0]} names {row[2]}, which is no test of tests/serve"
        )


def test_every_address_has_its_row() -> None:
    said = {row[0].strip("`") for row in table("Addresses")}
    expected = {f"POST {path}" for path in BODIES} | {f"GET {path}" for path in PAGES}
    assert said == expected | {"GET /v1/models/{name}", "GET /openapi.json"}


def test_what_changes_nothing_is_listed_with_its_values() -> None:
    said = {row[0].strip("`"): row[1] for row in table("Fields that change nothing")}
    shown = {
        name: "any" if values is None else ", ".join(f"`{json.dumps(value)}`" for value in values)
        for name, values in HARMLESS.items()
    }
    assert said == shown


@pytest.mark.parametrize("whose", other_servers.FIELDS)
def test_the_fields_of_another_server_are_those_of_its_table(whose: str) -> None:
    """Those that are refused with a hint; a field that is read under its own name may stand there too."""
    rows = [row[0] for row in table(whose.removesuffix("'s"), COMING) if re.match("fields? ", row[0])]
    said = {name for row in rows for name in re.findall("`([^`]+)`", row)}
    assert said - set(OTHER_NAMES) == set(other_servers.FIELDS[whose])


def test_addresses_that_are_not_there_are_listed() -> None:
    section = PAGE.split("these addresses are not there yet:", 1)[1].split(". A program", 1)[0]
    assert re.findall("`([^`]+)`", section) == list(NOT_SERVED["OpenAI's"])


def codes_of_the_source() -> set[str]:
    """The fourth of what an `ApiError` is made of."""
    found = set()
    for path in (ROOT / "brigade/serve").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ApiError":
                given = [*node.args[3:4], *(one.value for one in node.keywords if one.arg == "code")]
                found |= {one.value for one in given if isinstance(one, ast.Constant) and isinstance(one.value, str)}
    return found


def test_every_code_of_an_error_is_listed() -> None:
    said = {row[0].strip("`") for row in table("Errors")} - {"null"}
    assert codes_of_the_source() <= said
    words = "".join(path.read_text() for path in (ROOT / "brigade/serve").glob("*.py"))
    assert all(f'"{code}"' in words for code in said)


def test_every_limit_is_listed_with_its_default() -> None:
    said = {row[0].strip("`"): float(row[1]) for row in table("Limits")}
    assert said == {f"--{one.name.replace('_', '-')}": one.default for one in fields(Limits)}


def test_the_limits_of_one_request_are_listed() -> None:
    said = [int(row[0]) for row in table("Limits of one request")]
    assert said == [MOST_TOKENS, MOST_LOGPROBS, MOST_STOP_CHARACTERS, MOST_STOP_IDS, MOST_BIASES, MOST_SAMPLES]


def curls(page: str) -> list[tuple[str, str]]:
    return re.findall(r"^curl (?:-N )?http://127\.0\.0\.1:8000(/\S+) .*?-d '(.*?)'", page, re.MULTILINE)


@pytest.mark.parametrize(("path", "data"), [*curls(README), *curls(PAGE)])
def test_the_pages_commands_are_answered(server: Running, path: str, data: str) -> None:
    answer = httpx.post(server.url + path, content=data, timeout=60)
    assert answer.status_code == 200, answer.text


def test_the_readmes_answer_is_the_servers(server: Running, llm: LLM) -> None:
    ((path, data),) = curls(README)
    (shown,) = re.findall(r'^\{"id":"cmpl-.*"text":("(?:[^"\\]|\\.)*").*\}$', README, re.MULTILINE)
    said = httpx.post(server.url + path, content=data, timeout=60).json()["choices"][0]["text"]
    given = json.loads(data)
    alone = llm.generate([given.pop("prompt")], SamplingParams(**given))[0].text
    assert json.loads(shown) == said == alone


def test_the_pages_python_is_answered(server: Running, capsys) -> None:
    pytest.importorskip("openai")
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(block.replace("http://127.0.0.1:8000", server.url), "docs/serve.md", "exec"), {})
    assert server.app.served.fingerprint in capsys.readouterr().out


def options_of_serve() -> set[str]:
    (commands,) = make_parser("serve")._subparsers._group_actions
    return {name for one in commands.choices["serve"]._actions for name in one.option_strings}


@pytest.mark.parametrize("page", [PAGE, COMING], ids=["serve", "coming from"])
def test_every_option_that_is_named_is_one(page: str) -> None:
    """Only our own column of a table of others' options counts, the last of it."""
    options = options_of_serve() | {"--help", "--version"}
    if page is COMING:
        rows = [line.strip("|").split("|")[1] for line in page.splitlines() if line.startswith("|") and "`" in line]
        text = " ".join(rows)
    else:
        text = re.sub(r"^(lm_eval|docker|  --model_args).*$", "", page, flags=re.MULTILINE)
    for name in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text):
        known = options | ({"--time"} if page is PAGE else others())
        assert name in known, f"{name} is no option of `brigade serve`"


def others() -> set[str]:
    """Options of our other commands, which that page names too."""
    found = set()
    for command in ("generate", "export", "bench", "eval", "verify", "coordinator", "inspect"):
        stack = [make_parser(command)]
        while stack:
            parser = stack.pop()
            for action in parser._actions:
                found |= set(action.option_strings)
                if isinstance(action.choices, dict):
                    stack += [one for one in action.choices.values() if hasattr(one, "_actions")]
    return found


@pytest.mark.parametrize("whose", foreign_options.OPTIONS)
def test_the_options_of_another_server_are_those_of_its_table(whose: str) -> None:
    """Each is one of the table's first column, and its words name what stands beside it. An option with a counterpart of the same
    name is never refused."""
    ours, hints, listed = options_of_serve(), foreign_options.OPTIONS[whose], set()
    for theirs, counterpart, _ in table(whose, COMING):
        names = re.findall(r"`(--?[a-zA-Z][\w-]*)(?: [\w]+)?`", theirs)
        refused = [name for name in names if name not in ours]
        listed |= set(refused)
        if refused and counterpart != "none":
            said = {option for name in refused for option in foreign_options.options_in(hints[name])}
            assert set(foreign_options.options_in(counterpart)) <= said | set(names), theirs
    assert listed == set(hints)
    assert all(option in ours for words in hints.values() for option in foreign_options.options_in(words))
