"""`brigade keys`: who may speak to a coordinator that other machines reach."""

from __future__ import annotations

import argparse
from pathlib import Path

from brigade.coordinator.keys import ROLES, make_keys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="the coordinator's folder of keys; what is there stays")
    parser.add_argument("--name", default="default", help="of the new pairs (default: default)")
    parser.add_argument("--role", action="append", choices=ROLES, help="make a pair for these alone (default: one for each)")


def run(args: argparse.Namespace) -> int:
    for path in make_keys(args.folder, args.name, tuple(args.role) if args.role else ROLES):
        print(path)
    print(
        f"Give each client, replica and operator a folder with {args.folder / 'coordinator.key'} and its own secret file, "
        "under the same names; the other secret files stay here."
    )
    return 0
