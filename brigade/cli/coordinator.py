"""`brigade coordinator`: clients on one side, replicas on the other; with `--dp` it starts the replicas of this machine itself."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from brigade.cli.options import CLIENTS, OPERATORS, REPLICAS, add_model_options, given_model_options
from brigade.cli.replica import on_signals
from brigade.errors import ConfigError

SETTINGS = (
    "routing", "replica_timeout", "hang_timeout", "no_replica_timeout", "client_timeout", "client_grace", "restart_grace",
    "max_requests", "max_requests_of_client", "max_clients",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("addresses", "port * takes a free one, and is told")
    group.add_argument("--clients", default=CLIENTS, metavar="ADDRESS", help=f"for clients (default: {CLIENTS})")
    group.add_argument("--replicas", default=REPLICAS, metavar="ADDRESS", help=f"for replicas (default: {REPLICAS})")
    group.add_argument("--operators", default=OPERATORS, metavar="ADDRESS", help=f"for `brigade control` (default: {OPERATORS})")
    group.add_argument(
        "--keys", type=Path, metavar="FOLDER", help="keys of `brigade keys`: who may speak, and everything is encrypted"
    )
    group.add_argument(
        "--insecure", action="store_true", help="listen to other machines without keys: anybody there may ask and stop"
    )
    group = parser.add_argument_group("journal")
    group.add_argument(
        "--journal", metavar="FILE", help="where accepted requests are kept, or off (default: a file of your home folder)"
    )
    group.add_argument(
        "--journal-sync",
        choices=("normal", "full"),
        help="normal: safe against kill -9; full: against a power cut too (default: normal)",
    )
    group = parser.add_argument_group("requests and replicas")
    group.add_argument(
        "--routing", choices=("prefix", "least-loaded", "round-robin"), help="which replica gets a request (default: prefix)"
    )
    seconds: dict[str, Any] = {"type": float, "metavar": "S"}
    group.add_argument("--replica-timeout", **seconds, help="seconds of silence after which a replica is gone (10)")
    group.add_argument(
        "--hang-timeout", **seconds, help="seconds without a finished layer after which a replica that has work is gone (60)"
    )
    group.add_argument("--no-replica-timeout", **seconds, help="how long requests wait where there is no replica at all (60)")
    group.add_argument(
        "--client-timeout", **seconds, help="seconds of silence after which a client is away, and its requests stop (10)"
    )
    group.add_argument(
        "--client-grace", **seconds, help="how long the requests of a client that is away are kept for its return (30)"
    )
    group.add_argument("--restart-grace", **seconds, help="the same after a restart of the coordinator (60)")
    for name, said in (
        ("max-requests", "open at once (20000)"), ("max-requests-of-client", "open at once of one client (10000)"),
        ("max-clients", "at once (1000)"),
    ):  # fmt: skip
        group.add_argument(f"--{name}", type=int, metavar="N", help=said)
    group = parser.add_argument_group("replicas of this machine")
    group.add_argument(
        "--dp", type=int, default=0, metavar="N", help="start so many, each with the model options below (default: 0)"
    )
    group.add_argument("--serve-as", metavar="NAME", help="the name that clients ask for (default: the model's own)")
    group.add_argument("--max-restarts", type=int, metavar="N", help="ends in a row after which a replica is not started again (5)")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    from brigade.coordinator.journal import Journal
    from brigade.coordinator.keys import Keys, check_exposed
    from brigade.coordinator.loop import Loop
    from brigade.coordinator.settings import CoordinatorSettings

    keys = None if args.keys is None else Keys(args.keys)
    addresses = {"--clients": args.clients, "--replicas": args.replicas, "--operators": args.operators}
    check_exposed(addresses, keys, args.insecure)
    settings = CoordinatorSettings(**{name: getattr(args, name) for name in SETTINGS if getattr(args, name) is not None})
    replicas = replica_settings(args)
    if args.journal == "off" and args.journal_sync is not None:
        raise ConfigError(f"--journal-sync {args.journal_sync} has no effect with --journal off; drop one of them")
    with ExitStack() as stack:
        journal = None
        if args.journal == "off":
            print("journal off: a coordinator that is killed forgets what it has accepted; clients ask again", file=sys.stderr)
        else:
            journal = Journal(_journal_file(args), args.journal_sync or "normal")
        keeper: Any = None
        loop = Loop(
            settings, args.clients, args.replicas, journal, operators=args.operators, keys=keys,
            is_over=lambda: keeper is not None and keeper.failure is not None,
        )  # fmt: skip
        for who, address in zip(("clients", "replicas", "operators"), loop.addresses, strict=True):
            print(f"coordinator: {who} at {address}", file=sys.stderr)
        if replicas:
            keeper = _keeper(replicas, loop, args)
            stack.callback(keeper.close)
            keeper.start()
        on_signals(loop.end)
        loop.run()
        if keeper is not None:
            keeper.check()
    return 0


def _journal_file(args: argparse.Namespace) -> Path:
    """One for each address of clients, so that two coordinators of one user do not meet in it."""
    if args.journal is not None:
        return Path(args.journal)
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "brigade"
    state.mkdir(parents=True, exist_ok=True)
    return state / f"coordinator-{args.clients.rpartition(':')[2].replace('*', 'any').replace('/', '_')}.sqlite"


def replica_settings(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Of each replica, beside where it connects to."""
    from brigade.checkpoint.hub import pinned
    from brigade.replica.launcher import as_options, share_of_processors

    given = given_model_options(args)
    if args.dp < 0:
        raise ConfigError(f"--dp is {args.dp}; give 0 or more")
    if args.dp == 0:
        own = {name: getattr(args, name) for name in ("serve_as", "max_restarts") if getattr(args, name) is not None}
        useless = as_options(given | own)
        if useless:
            raise ConfigError(f"{useless[0]} has no effect without --dp, which starts replicas here; give --dp, or drop it")
        return []
    if args.exact == "off":
        raise ConfigError("--exact off lets bits depend on the batch, so no request could go on elsewhere; drop it")
    if "model" in given:  # also for a replica that is started again when a branch of the hub has moved
        given["model"] = pinned(given["model"])
    serve_as = getattr(args, "serve_as", None)
    named = {} if serve_as is None else {"serve_as": serve_as}
    shares = share_of_processors(args.dp, args.tp * args.pp, args.threads, args.cpus)
    return [given | named | own | {"name": f"local-{place}"} for place, own in enumerate(shares)]


def _keeper(settings: list[dict[str, Any]], loop: Any, args: argparse.Namespace) -> Any:
    from brigade.replica.launcher import Keeper, LocalLauncher, clean_environment, replica_command

    where = {"connect": loop.addresses[1]} | ({} if args.keys is None else {"keys": args.keys})
    commands = [replica_command(where | own) for own in settings]
    launcher, most_ends = LocalLauncher(commands, clean_environment()), 5 if args.max_restarts is None else args.max_restarts
    return Keeper(launcher, args.dp, most_ends, has_worked=loop.has_had_replica)
