"""From command to first streamed token: `python benchmarks/first_token.py [RUNS]`.

Starts `brigade generate --stream` as a user would and stops the clock at the first byte of text.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time


def one_run() -> float:
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "brigade.cli.main", "generate", "--stream", "--max-tokens", "8", "import os\n"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    first = process.stdout.read(1)
    seconds = time.perf_counter() - begun
    process.stdout.read()
    if process.wait() or not first:
        raise SystemExit("the command failed; run it by hand to see why")
    return seconds


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    one_run()  # fills the file cache
    times = [one_run() for _ in range(runs)]
    print(
        f"command to first streamed token, {runs} runs: median {statistics.median(times):.2f} s, "
        f"{min(times):.2f} to {max(times):.2f} s"
    )


if __name__ == "__main__":
    main()
