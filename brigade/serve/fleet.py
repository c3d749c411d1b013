"""Replicas behind a coordinator, for a server that starts them itself or asks those of somebody else."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from brigade.api.faces import named_params
from brigade.coordinator.messages import Identity
from brigade.coordinator.words import say, told_if_late
from brigade.engine.prompt import ChatPrompt, Prompt, encode_prompt
from brigade.engine.sampling.params import SamplingParams
from brigade.engine.submission import Limits, first_matcher
from brigade.errors import ConfigError
from brigade.replica.launcher import Keeper, replica_command
from brigade.replica.local_fleet import local_fleet
from brigade.serve.app import App
from brigade.serve.desk import Desk
from brigade.serve.job import Job
from brigade.serve.served import Served

PATIENCE = 1.5  # seconds after which it is said what is waited for
CONNECT = 10.0  # seconds that the coordinator has to answer when the server starts
FIRST_PATIENCE = 5.0  # seconds without a word of the coordinator after which requests that it has not accepted end with status 503
NAME = "model"  # that the replicas serve as: what requests call it is the server's affair
RESTARTS = 5
START = 3600.0  # seconds that the largest model may take to load


def local_coordinator(settings: Sequence[Mapping[str, Any]]) -> AbstractContextManager[tuple[str, Keeper]]:
    """A coordinator in this process, and a replica for each of these settings. No journal: the only client is here too."""

    def commands(address: str) -> list[list[str]]:
        where = {"connect": address, "serve_as": NAME}
        return [replica_command({**where, "name": f"local-{place}", **one}) for place, one in enumerate(settings)]

    return local_fleet(commands, RESTARTS)


class FleetDesk(Desk):
    """Asks replicas elsewhere: those that `served` describes, and no others that came in their place."""

    def _prepare_one(self, place: int, job: Job, served: Served) -> Any:
        prompt = job.prompts[place]
        check_fits(served, prompt, job.params, is_first=place == 0)
        return self.face.prepare(prompt, job.params, served.identity)


def check_fits(served: Served, prompt: Prompt, params: Mapping[str, Any], is_first: bool = True) -> None:
    """Refuses what no replica could serve, before it is sent: a replica's refusal would be the end of an answer that had begun.
    Where the replicas have a tokenizer and this server has none, texts and constraints are left to them.

    The replica encodes the prompt and compiles the constraint once more. That is 0.5 ms for a prompt of 1000 tokens and 1.6 ms for
    a schema of seven properties, with the embedded model's tokenizer. To save it, ids would have to be sent beside the text, which
    `echo` and the routing by prefixes read, and a replica would have to trust them. `is_first`: of the prompts with these
    parameters; a constraint that compiles for one compiles for all."""
    tokenizer = served.tokenizer if served.replicas_read_text else None
    reads_here = tokenizer is not None or not served.replicas_read_text
    limits = Limits(served.positions, served.vocab_size, 1 << 62, 1, served.replicas_read_text, True, 1 << 62)
    made = named_params(SamplingParams, {**served.defaults, **params})
    if made.constraint is not None and reads_here and is_first:
        first_matcher(made.constraint, tokenizer, served.vocab_size)
    if reads_here or not isinstance(prompt, (str, ChatPrompt)):
        limits.admit(encode_prompt(prompt, tokenizer).token_ids, made)


def following(app: App, made_of: Callable[[Identity], Served]) -> Callable[[Identity], None]:
    """To be called with what the replicas are now: requests that come later are for those, and their answers say so."""

    def follow(identity: Identity) -> None:
        if identity.digest == app.served.identity:
            return
        before, app.served = app.served.fingerprint, made_of(identity)
        now = app.served
        say(
            f"brigade: other replicas of {now.name} are there now: system_fingerprint {now.fingerprint} in place of {before}, "
            f"{now.positions} positions; the tokenizer stays the same"
        )

    return follow


def connected(make: Callable[[], Any], address: str) -> Any:
    """A client whose coordinator has answered. That takes a moment, or `CONNECT` seconds and a refusal."""
    words = (
        f"waiting up to {CONNECT:g} s for a coordinator at {address}, where none answers so far; start it with `brigade "
        "coordinator`, or give its address for clients, and its keys"
    )
    with told_if_late(lambda: words, PATIENCE):
        client = make()
        try:
            client.status(CONNECT)
        except BaseException:
            client.close()
            raise
    return client


def wait_for_replica(client: Any, keeper: Keeper | None = None, timeout: float = START) -> Identity:
    """Of the first replica that works. A client whose model has no name yet gets that of the replicas that are there."""
    begun, has_told = time.monotonic(), keeper is not None  # replicas that are started here tell of their loading themselves
    until = begun + timeout
    while True:
        found = {one.model: one.identity for one in client.status().replicas}
        if not client.model and found:
            client.model = _only_one(sorted(found), client.address)
        if client.model in found:
            return found[client.model]
        if keeper is not None:
            keeper.check()
        if not has_told and time.monotonic() - begun > PATIENCE:
            has_told = True
            say(f"brigade: waiting up to {timeout:g} s for {_missing(client, sorted(found))}")
        if time.monotonic() > until:
            raise ConfigError(f"in {timeout:g} s nothing came of {_missing(client, sorted(found))}")
        time.sleep(0.1)


def _only_one(names: Sequence[str], address: str) -> str:
    if len(names) > 1:
        raise ConfigError(f"there are replicas of {', '.join(names)} at {address}; give one of these names as MODEL")
    return names[0]


def _missing(client: Any, names: Sequence[str]) -> str:
    """What is waited for, what is there, and what to do."""
    whose, as_it = (f"a replica of {client.model}", f" --serve-as {client.model}") if client.model else ("a replica", "")
    there = f"there are replicas of {', '.join(names)}" if names else "there is no replica at all"
    other = ", or give as MODEL a name that is there" if names else ""
    return f"{whose} at {client.address}, where {there}; start one with `brigade replica{as_it}`{other}"
