"""Replicas behind a coordinator, for a server that starts them itself or asks those of somebody else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from brigade.api.faces import named_params
from brigade.coordinator.messages import Identity
from brigade.engine.prompt import ChatPrompt, Prompt, encode_prompt
from brigade.engine.sampling.params import SamplingParams
from brigade.engine.submission import Limits, first_matcher
from brigade.errors import ConfigError
from brigade.replica.launcher import Keeper, replica_command
from brigade.replica.local_fleet import local_fleet
from brigade.serve.served import Served

PATIENCE = 3.0  # seconds after which it is said what is waited for
NAME = "model"  # that the replicas serve as: what requests call it is the server's affair
RESTARTS = 5
START = 3600.0  # seconds that the largest model may take to load


def local_coordinator(settings: Sequence[Mapping[str, Any]]) -> AbstractContextManager[tuple[str, Keeper]]:
    """A coordinator in this process, and a replica for each of these settings. No journal: the only client is here too."""

    def commands(address: str) -> list[list[str]]:
        where = {"connect": address, "serve_as": NAME}
        return [replica_command({**where, "name": f"local-{place}", **one}) for place, one in enumerate(settings)]

    return local_fleet(commands, RESTARTS, ends_with_replicas=True)


def fitting(served: Served, has_tokenizer: bool) -> Callable[[Prompt, Mapping[str, Any]], None]:
    """Refuses what no replica could serve, before it is sent: a replica's refusal would be the end of an answer that had begun.
    `has_tokenizer`: whether the replicas read and say text. Where they do, and this server has no tokenizer, it leaves texts and
    constraints to them.

    The replica encodes the prompt and compiles the constraint once more. That is 0.5 ms for a prompt of 1000 tokens and 1.6 ms for
    a schema of seven properties, with the embedded model's tokenizer. To save it, ids would have to be sent beside the text, which
    `echo` and the routing by prefixes read, and a replica would have to trust them."""
    tokenizer = served.tokenizer if has_tokenizer else None
    reads_here = tokenizer is not None or not has_tokenizer
    limits = Limits(served.positions, served.vocab_size, 1 << 62, 1, has_tokenizer, True, 1 << 62)

    def check(prompt: Prompt, params: Mapping[str, Any]) -> None:
        made = named_params(SamplingParams, {**served.defaults, **params})
        if made.constraint is not None and reads_here:
            first_matcher(made.constraint, tokenizer, served.vocab_size)
        if reads_here or not isinstance(prompt, (str, ChatPrompt)):
            limits.admit(encode_prompt(prompt, tokenizer).token_ids, made)

    return check


def wait_for_replica(client: Any, keeper: Keeper | None = None, timeout: float = START) -> Identity:
    """Of the first replica that works."""
    begun, has_told = time.monotonic(), keeper is not None  # replicas that are started here tell of their loading themselves
    until = begun + timeout
    while True:
        found = [one.identity for one in client.status().replicas if one.model == client.model]
        if found:
            return found[0]
        if keeper is not None and keeper.failure is not None:
            raise ConfigError(f"no replica is left: {keeper.failure}; their own messages are above")
        if not has_told and time.monotonic() - begun > PATIENCE:
            has_told, names = True, sorted({one.model for one in client.status().replicas})
            there = f"there are replicas of {', '.join(names)}" if names else "there is no replica yet"
            print(f"brigade: waiting for a replica of {client.model} at {client.address}; {there}", file=sys.stderr, flush=True)
        if time.monotonic() > until:
            raise ConfigError(f"no replica of {client.model} came to {client.address} in {timeout:g} s; start one")
        time.sleep(0.1)
