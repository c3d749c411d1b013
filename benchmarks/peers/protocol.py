"""What a worker understands: one JSON object a line in, one out. It runs in every peer's environment, so it
imports the standard library only, and `brigade.bench.others`, which does the same.

    {"do": "load", "folder": ..., "settings": {...}, "threads": 2} -> {"about": "engine 1.2"}
    {"do": "generate", "prompts": [[ids]], "new_tokens": 8} -> {"seconds": ..., "first": ..., "others": ..., "ids": [[ids]]}

`first` are the seconds until every request had its first token, `others` the share of the machine that other processes took;
either may be null.

What fails is answered with {"error": "one line"}, and the worker stays: a batch it cannot do is no reason to lose the others.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

from brigade.bench.others import Others

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Answer:
    ids: list[list[int]]  # the new ones alone
    first: float | None = None  # seconds until every request had its first token, where the engine tells


class Engine(Protocol):
    about: str

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Answer:
        """Greedy, all prompts submitted at once, exactly `new_tokens` each."""


@dataclass(frozen=True)
class Setup:
    folder: str  # the model as this peer's converter left it
    settings: dict[str, Any]
    threads: int


Load = Callable[[Setup], Engine]


def serve(load: Load) -> None:
    """Answer until the input ends. What libraries print goes to the log: file descriptor 1 is theirs no longer."""
    _die_with_parent()
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    answer_all(load, sys.stdin, replies)


def answer_all(load: Load, requests: TextIO, replies: TextIO) -> None:
    engine: Engine | None = None
    for line in requests:
        request = json.loads(line)
        try:
            if request["do"] == "load":
                engine = load(Setup(request["folder"], request["settings"], request["threads"]))
                reply: dict[str, Any] = {"about": engine.about}
            else:
                assert engine is not None, "generate came before load"
                reply = timed(engine, request["prompts"], request["new_tokens"])
        except Exception as error:
            traceback.print_exc()
            reply = {"error": one_line(error)}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def timed(
    engine: Engine, prompts: list[list[int]], new_tokens: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Any]:
    """The clock covers the engine's work alone, not the way through the pipe."""
    others, begun = Others(), clock()
    answer = engine.generate(prompts, new_tokens)
    seconds, share = clock() - begun, others.share()
    lengths = [len(ids) for ids in answer.ids]
    if lengths != [new_tokens] * len(prompts):
        raise RuntimeError(f"asked {len(prompts)} requests for {new_tokens} tokens each, got {lengths}")
    return {"seconds": seconds, "first": answer.first, "others": share, "ids": answer.ids}


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _die_with_parent() -> None:
    """A stopped worker would outlive a killed run for ever."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
