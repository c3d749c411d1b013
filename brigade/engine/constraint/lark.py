"""Which Lark grammars are taken: what the compiler would take and nothing here would carry out is refused, and so is what it would
be busy with for ever.

The compiler puts the terminals that a terminal names into it, each time that they are named, and compares the alternatives of rules
with each other. A page of text can ask for more memory or time than there is, so the sizes are counted first.
"""

from __future__ import annotations

import json
import re
from functools import cache, lru_cache

from brigade.engine.constraint.schema import check_schema, read_schema
from brigade.errors import RequestError

MOST_PIECES = 200_000  # in all terminals together, once those that they name are put into them
MOST_WRITTEN = 5_000  # pieces of all rules, as they are written
MOST_ALTERNATIVES = 500  # of one rule; those of a terminal are not counted
MOST_COMBINED = 6  # uses of & and ~, whose automata may have as many states as the product of theirs

# What a grammar writes in quotes, comments, and %json. Each begins once and is read to its end, so a text is walked through once.
_APART = re.compile(r'(?s)(?://|#)[^\n]*+|"(?:\\.|[^"\\])*+(?P<closed>")?|/(?:\\.|[^/\\])++(?P<ended>/)?|%json\s*+')
_DEFINED = re.compile(r"(?<![\w-])([A-Za-z_][\w-]*+)\s*+(\[[^\[\]]*+\])?+\s*+(?:\.\s*+-?\d++\s*+)?+:")
_PIECE = re.compile(r'[A-Za-z_][\w-]*+|""')
_SPECIAL = re.compile(r"<\[(\d{1,9})\]>")
_WITHOUT_EFFECT = ("temperature", "capture", "stop", "stop_capture")


@lru_cache(maxsize=32)  # a request's grammar is checked with its parameters, and again by whoever compiles it
def check_lark(text: str) -> tuple[int, ...]:
    """The special tokens that it names, by their ids."""
    written = _syntax(text)
    syntax = _SPECIAL.sub(' "" ', written)
    if "%llguidance" in syntax:
        raise RequestError("constraint grammar sets %llguidance options, which are the system's; drop that line")
    if "<" in syntax:
        raise RequestError("constraint grammar names tokens in <>; only a special token may be, by its id, such as <[5]>")
    if (uses := len(re.findall("[&~]", syntax))) > MOST_COMBINED:
        raise RequestError(f"constraint grammar uses & and ~ {uses} times; {MOST_COMBINED} are allowed: use alternatives")
    _check_sizes(syntax)
    return tuple(int(found) for found in _SPECIAL.findall(written))


def _syntax(text: str) -> str:
    """Names and signs: two quotes stand for each text, expression or schema, which is checked here."""
    found, at = list[str](), 0
    while (one := _APART.search(text, at)) is not None:
        found.append(text[at : one.start()])
        word, at = one[0], one.end()
        if word.startswith("%json"):
            at = _check_inner_schema(text, one.start(), at)
        elif (word[0] == '"' and one["closed"] is None) or (word[0] == "/" and word[:2] != "//" and one["ended"] is None):
            line = text.count("\n", 0, one.start()) + 1
            raise RequestError(f"constraint grammar has a {word[0]} in line {line} that is never closed; mend it")
        found.append(" " if word[0] == "#" or word[:2] == "//" else ' "" ')
    return "".join([*found, text[at:]])


def _check_inner_schema(text: str, start: int, at: int) -> int:
    """Where it ends."""
    try:
        schema, end = json.JSONDecoder().raw_decode(text, at)
    except (ValueError, RecursionError) as error:
        line = text.count("\n", 0, start) + 1
        raise RequestError(f"constraint grammar has no JSON behind %json in line {line} ({error}); mend it") from error
    where = "constraint grammar, behind %json,"
    check_schema(read_schema(schema, where), where)
    return end


def _check_sizes(syntax: str) -> None:
    """Of definitions, wherever one begins: a name and a colon, up to the next."""
    bodies: dict[str, list[str]] = {}
    heads, written = list(_DEFINED.finditer(syntax)), 0
    for place, head in enumerate(heads):
        for name in re.findall(r"[A-Za-z_]\w*", head[2] or ""):
            if name in _WITHOUT_EFFECT:
                raise RequestError(f"constraint grammar has a rule with the option {name!r}, which has no effect here; drop it")
        body = syntax[head.end() : heads[place + 1].start() if place + 1 < len(heads) else len(syntax)]
        pieces = _PIECE.findall(body)
        bodies.setdefault(head[1], []).extend(pieces)
        if not _is_terminal(head[1]):
            written += len(pieces)
            if (count := body.count("|") + 1) > MOST_ALTERNATIVES:
                raise RequestError(
                    f"constraint grammar has {count} alternatives in the rule {head[1]!r}; {MOST_ALTERNATIVES} are allowed: "
                    "make it a terminal, with a name in capitals"
                )
    if written > MOST_WRITTEN:
        raise RequestError(f"constraint grammar has {written} pieces in its rules; {MOST_WRITTEN} are allowed: make it smaller")
    total = 0
    sizes: dict[str, int] = {}
    for name in bodies:
        total += _size(name, bodies, sizes)
        if total > MOST_PIECES:
            raise RequestError(
                f"constraint grammar has over {MOST_PIECES} pieces in its terminals, once those that they name are put into them, "
                f"at {name!r}; make rules of some of them, with names in small letters"
            )


def _size(name: str, bodies: dict[str, list[str]], sizes: dict[str, int]) -> int:
    """With a stack of its own, since names may lead to each other without end. Names in a circle count once; the compiler refuses
    them."""
    stack = [name]
    while stack:
        top = stack[-1]
        if top in sizes and sizes[top] >= 0:
            stack.pop()
            continue
        inner = {piece for piece in bodies[top] if piece in bodies and _is_terminal(piece)}
        waiting = [piece for piece in inner if piece not in sizes]
        if top not in sizes and waiting:
            sizes[top] = -1  # begun
            stack += waiting
            continue
        sizes[top] = min(MOST_PIECES + 1, sum(max(sizes.get(piece, 1), 1) if piece in inner else 1 for piece in bodies[top]) + 1)
        stack.pop()
    return sizes[name]


@cache
def _is_terminal(name: str) -> bool:
    letters = name.strip("_-0123456789")
    return letters[:1].isupper()
