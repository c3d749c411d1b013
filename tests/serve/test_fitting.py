"""What a server in front of replicas refuses before it is sent, and what it leaves to them."""

from __future__ import annotations

import asyncio

import pytest

from brigade.checkpoint.load import EMBEDDED
from brigade.errors import RequestError
from brigade.serve import fleet
from brigade.serve.fleet import check_fits
from brigade.serve.job import Job
from brigade.serve.served import Served
from brigade.tokenizer import Tokenizer

TOKENIZER = Tokenizer.from_folder(EMBEDDED)
BROKEN = {"constraint": {"regex": "["}}


def served(has_own: bool, replicas_have_one: bool) -> Served:
    tokenizer = TOKENIZER if has_own else None
    return Served(["m"], "f", 64, TOKENIZER.vocab_size, tokenizer, replicas_read_text=replicas_have_one)


@pytest.mark.parametrize("has_own", [True, False])
@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"constraint": {"regex": "a"}}, "a constraint is on text, but this model has no tokenizer; drop constraint"),
        ({"stop": ["a"]}, "no tokenizer; use stop_token_ids"),
        ({"echo": True}, "no tokenizer; drop echo"),
    ],
)
def test_replicas_without_a_tokenizer_are_not_asked_for_text(has_own: bool, params: dict, words: str) -> None:
    """Whatever this server has."""
    with pytest.raises(RequestError, match=words):
        check_fits(served(has_own, False), [5, 6], params)
    with pytest.raises(RequestError, match="no tokenizer"):
        check_fits(served(has_own, False), "a text", {})


def test_a_server_without_a_tokenizer_leaves_text_to_replicas_that_have_one() -> None:
    theirs = served(False, True)
    for params in ({"stop": ["a"]}, {"echo": True}, BROKEN):
        check_fits(theirs, "a text", params)
        check_fits(theirs, [5, 6], params)
    with pytest.raises(RequestError, match="exceed the limit of 64 positions"):  # of ids it knows how many there are
        check_fits(theirs, [5] * 64, BROKEN)


def test_a_server_with_a_tokenizer_refuses_all_that_a_replica_would() -> None:
    both = served(True, True)
    check_fits(both, "a text", {"constraint": {"regex": "a"}})
    with pytest.raises(RequestError, match="constraint regex cannot be compiled"):
        check_fits(both, "a text", BROKEN)
    with pytest.raises(RequestError, match="exceed the limit of 64 positions"):
        check_fits(both, "a b c d " * 50, {})


def test_a_constraint_is_compiled_once_for_all_prompts_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []
    monkeypatch.setattr(fleet, "first_matcher", lambda constraint, *_: compiled.append(constraint))
    sent: list[str] = []

    class Face:
        def prepare(self, prompt: str, params: dict, identity: str) -> str:
            sent.append(prompt)
            return prompt

    desk, job = fleet.FleetDesk(Face()), Job("a", 0, ["a", "b", "c"], {"constraint": {"regex": "a"}})  # type: ignore[arg-type]
    assert asyncio.run(desk.prepare(job, served(True, True))) == sent == ["a", "b", "c"] and len(compiled) == 1
