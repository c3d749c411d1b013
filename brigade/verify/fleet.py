"""Play a list of requests through a coordinator and replicas of its own, some of which are killed in the middle."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from brigade.api.stream import Stream
from brigade.checkpoint.hub import pinned
from brigade.checkpoint.load import open_model
from brigade.client import Client
from brigade.coordinator.journal import Journal
from brigade.coordinator.messages import ReplicaState
from brigade.engine.prompt import ChatPrompt, write_chat
from brigade.errors import ConfigError
from brigade.replica.launcher import Keeper, LocalProcess, replica_command, share_of_processors
from brigade.replica.local_fleet import local_fleet
from brigade.tokenizer import Tokenizer
from brigade.verify.models import ModelChoice, RankOptions
from brigade.verify.play import Ask, read_prompt, request_record, versions
from brigade.verify.record import MEASURES, Record
from brigade.verify.run import Run

START = 600.0  # seconds in which replicas must be there
NAME = "verified"


@dataclass
class Fleet:
    """`keeper` has the replicas' processes, in their places."""

    client: Client
    keeper: Keeper
    lost: set[str] = field(default_factory=set)

    def replicas(self) -> list[ReplicaState]:
        return self.client.status().replicas

    def kill_one(self) -> None:
        """The leader of a replica that works, without a word; its other ranks notice."""
        working = [one.name for one in self.replicas() if one.running]
        if working:
            running = self.keeper.running(int(working[0].rpartition("-")[2]))
            if isinstance(running, LocalProcess):
                running.process.kill()
                self.lost.add(f"{working[0]} {running.process.pid}")


def play_fleet(
    chosen: ModelChoice,
    options: RankOptions,
    run: Run,
    asks: Sequence[Ask],
    metrics: Sequence[str],
    tokenizer: Tokenizer | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Record]:
    """One record for each pass, as `play` makes them of one engine. `metrics`: no digests; logits stay with the replicas."""
    chat = _chat_writer(chosen)
    prompts = [read_prompt(ask.prompt, tokenizer, chat) for ask in asks]
    params: list[Any] = [dict(ask.params) for ask in asks]
    records, measured = [], dict.fromkeys((name for name in MEASURES if name != "steps"), 0.0)  # of which each replica has its own
    with running(chosen, options, run) as fleet:
        identity = fleet.replicas()[0].identity
        for _ in range(run.passes):
            begun = time.perf_counter()
            stream = fleet.client.stream(prompts, params)
            _listen(fleet, run, stream, [_most(one) for one in params], measured, progress)
            measured["seconds"] += time.perf_counter() - begun
            measured["replicas_lost"] = len(fleet.lost)
            for sample in (sample for output in stream.outputs for sample in output.samples):
                measured["preemptions"] += sample.metrics.preemptions
                measured["cached_tokens"] += sample.metrics.cached_tokens
            settings = {"layout": str(run.layout), "engine": run.engine, **run.settings, "kills": run.kills, "passes": run.passes}
            requests = {
                ask.name: request_record(output, metrics).keeping(metrics)  # of the prompt too, as of the golden record
                for ask, output in zip(asks, stream.outputs, strict=True)
            }  # fmt: skip
            records.append(
                Record(
                    model=chosen.model or "mini",
                    numerics_id=identity.numerics_id,
                    fingerprint=identity.fingerprint,
                    metrics=tuple(metrics),
                    versions=versions(),
                    settings=settings,
                    measured=dict(measured),
                    requests=requests,
                )  # fmt: skip
            )
    return records


def _listen(
    fleet: Fleet, run: Run, stream: Stream, sizes: Sequence[tuple[int, int]], measured: dict[str, float], progress: Any
) -> None:
    """To the end. Replicas are killed when equal shares of the most tokens that can come have come."""
    most, heard, killed = sum(tokens * samples for tokens, samples in sizes), 0, 0
    begun: set[tuple[str, int]] = set()
    ended, lost = 0, len(fleet.lost)
    for delta in stream:
        begun.add((delta.request_id, delta.index))
        measured["together"] = max(measured["together"], len(begun) - ended)
        heard += len(delta.token_ids)
        ended += delta.finish_reason is not None
        if progress is not None:
            progress(ended, sum(samples for _, samples in sizes))
        if killed < run.kills and heard >= most * (killed + 1) / (run.kills + 1):
            killed += 1
            fleet.kill_one()
    if len(fleet.lost) - lost < run.kills:
        raise ConfigError(
            f"{len(fleet.lost) - lost} of {run.kills} replicas were killed before the last token; give more tokens, or fewer kills"
        )


@contextmanager
def running(chosen: ModelChoice, options: RankOptions, run: Run) -> Iterator[Fleet]:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        journal = Journal(Path(folder) / "journal")
        commands = partial(_commands, chosen, options, run)
        address, keeper = stack.enter_context(local_fleet(commands, run.kills + 2, journal))
        client = Client(address, NAME, patience=START)
        stack.callback(client.close)
        fleet = Fleet(client, keeper)
        until = time.monotonic() + START
        while len(fleet.replicas()) < run.layout.dp:
            keeper.check()
            if time.monotonic() > until:
                raise ConfigError(f"the replicas did not start within {START:g} s; see their messages above")
            time.sleep(0.1)
        yield fleet


def _commands(chosen: ModelChoice, options: RankOptions, run: Run, address: str) -> list[list[str]]:
    """Of each replica."""
    given: dict[str, Any] = {name: getattr(chosen, name) for name in ModelChoice.__dataclass_fields__}
    given |= {name: getattr(run, name) for name in ("backend", "device") if getattr(run, name) is not None}
    given |= run.layout.arguments() | options.arguments(run.layout) | dict(run.settings) | {"engine": run.engine}
    given = {name: value for name, value in given.items() if value not in (None, (), [])}
    if "model" in given:
        given["model"] = pinned(given["model"])  # one commit for all replicas
    if given.pop("prefix_cache", True) is False:
        given["prefix_cache"] = False
    shares = share_of_processors(run.layout.dp, run.layout.ranks, run.threads, None)
    where = {"connect": address, "serve_as": NAME}
    return [replica_command(where | given | own | {"name": f"local-{place}"}) for place, own in enumerate(shares)]


def _most(params: Mapping[str, Any]) -> tuple[int, int]:
    """Tokens of a sample, about, and samples."""
    given = params.get("max_tokens", 16)
    return 64 if given is None else given, params.get("n", 1)


def _chat_writer(chosen: ModelChoice) -> Callable[[Any], ChatPrompt]:
    """By the model's own template. Its tokenizer is read once, when the first chat comes."""
    path = open_model(chosen.model).tokenizer_path
    own = cache(lambda: Tokenizer.of_model(path))
    return lambda messages: write_chat(messages, own())
