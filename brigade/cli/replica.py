"""`brigade replica`: a model of any layout, which works for a coordinator."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from brigade.cli.options import REPLICAS, add_model_options, make_llm
from brigade.cli.progress import Progress
from brigade.errors import ConfigError, UserError, in_one_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--connect", default=REPLICAS, metavar="ADDRESS", help=f"the coordinator's, for replicas (default: {REPLICAS})"
    )
    parser.add_argument("--serve-as", metavar="NAME", help="the name that clients ask for (default: the model's own)")
    parser.add_argument("--name", help="of this replica (default: its host and process)")
    parser.add_argument("--keys", type=Path, metavar="FOLDER", help="keys of `brigade keys`, with one secret in FOLDER/replicas")
    parser.add_argument(
        "--leave-with-stdin", action="store_true", help="leave when standard input is closed: for whoever starts replicas"
    )
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    from brigade.replica.launcher import REFUSED
    from brigade.replica.replica import serve

    for option, name in (("--serve-as", args.serve_as), ("--name", args.name)):
        if name is not None and not 1 <= len(name) <= 200:
            raise ConfigError(f"{option} is {name!r}; give a name of 1 to 200 characters")
    try:
        replica = _make(args)
    except UserError as error:
        if not args.leave_with_stdin or not _tell_launcher(in_one_line(error)):
            raise
        return REFUSED
    on_signals(replica.leave)
    if args.leave_with_stdin:
        threading.Thread(target=_leave_with_stdin, args=(replica,), daemon=True).start()
    serve(replica)
    return 0


def _make(args: argparse.Namespace) -> Any:
    from brigade.coordinator.keys import Keys
    from brigade.replica.replica import Replica

    loading = Progress("loading")
    llm = make_llm(args, progress=loading)
    loading.close()
    print(llm.plan, file=sys.stderr)
    try:
        keys = None if args.keys is None else Keys(args.keys)
        return Replica(llm, args.connect, model=args.serve_as, name=args.name, keys=keys)
    except BaseException:
        llm.close()
        raise


def _tell_launcher(line: str) -> bool:
    """Why this replica cannot work with its settings, which the launcher says once for all its replicas. False where whoever
    started this process has given it no socket to say it on."""
    try:
        with socket.socket(fileno=os.dup(0)) as launcher:
            launcher.sendall(line.encode())
    except OSError:
        return False
    return True


def _leave_with_stdin(replica: Any) -> None:
    while os.read(0, 65536):  # not by Python's own reader, whose lock it would miss at its end
        pass
    replica.leave()


def on_signals(leave: Any) -> None:
    """The first one is a wish to leave in good order; the second ends the process."""

    def handle(number: int, _: Any) -> None:
        signal.signal(number, signal.SIG_DFL)
        leave()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
