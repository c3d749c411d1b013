"""`brigade bench peers`: ours beside its peers. The harness lies in `benchmarks/peers/` of a source checkout."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from brigade import collector
from brigade.cli.progress import Progress
from brigade.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
WORKS = ("latency", "throughput", "stream")


def add_arguments(kinds: Any) -> None:
    parser = kinds.add_parser("peers", help="ours beside other engines, each in an environment of its own, in alternation")
    parser.add_argument("peers", nargs="*", metavar="PEER", help="(default: all; see --list)")
    parser.add_argument("--list", action="store_true", help="print engines and variants, and do nothing")
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="only these, such as bf16 or ctranslate2/int8 (default: all)")
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS), help="(default: all)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16], metavar="N", help="(default 1 2 4 8 16)")
    parser.add_argument("--repeats", type=int, default=3, help="measured rounds of each cell (default 3)")
    parser.add_argument("--warmup", type=int, default=1, help="rounds of each cell before them (default 1)")
    parser.add_argument("--threads", type=int, default=2, help="of every engine (default 2)")
    parser.add_argument("--limit", type=float, default=900, metavar="S", help="seconds an answer may take (default 900)")
    parser.add_argument("--model", default="gpt-345m", metavar="RECIPE", help="of GPT-2's shape (default gpt-345m)")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights (default 0)")
    parser.add_argument("--work", type=Path, default=Path("work/peers"), metavar="DIR", help="environments, models, logs")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="a picture of the table of medians")


def run(args: argparse.Namespace) -> int:
    if not (ROOT / "benchmarks" / "peers").is_dir():
        raise ConfigError("bench peers needs the folder benchmarks/peers, which no installed package has; run it from a checkout")
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    command = import_module("benchmarks.peers.command")
    collector.resume()
    return command.run(args, _processor, Progress)


def _processor() -> str:
    from brigade.cli.env import collect

    machine = collect()
    return f"{machine['cores']} cores, {machine['processor']}, {machine['instructions']}"
