"""`brigade control`: what an operator asks of a coordinator."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from brigade.cli.options import OPERATORS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("status", "pause", "resume", "drain", "stop"))
    parser.add_argument(
        "--connect", default=OPERATORS, metavar="ADDRESS", help=f"the coordinator's, for operators (default: {OPERATORS})"
    )
    parser.add_argument("--keys", type=Path, metavar="FOLDER", help="keys of `brigade keys`, with one secret in FOLDER/operators")


def run(args: argparse.Namespace) -> int:
    from brigade.client import Operator

    operator = Operator(args.connect, args.keys)
    try:
        print("\n".join(shown(operator.status() if args.action == "status" else operator.control(args.action))))
    finally:
        operator.close()
    return 0


def shown(status: Any) -> list[str]:
    lines = [f"{status.state}: {status.running} requests run, {status.waiting} wait, {status.clients} clients"]
    for one in status.replicas:
        lines.append(f"  {one.name} serves {one.model}: {one.running} of {one.capacity} places, heard {one.silent:.1f} s ago")
    return lines + [f"  {count} {what}" for what, count in sorted(status.counts.items())]
