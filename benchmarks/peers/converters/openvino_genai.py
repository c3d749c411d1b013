"""optimum-intel's export, its own defaults for each width of weights; and the tokenizer, without which no pipeline opens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main(source: str, out: str, kind: str) -> None:
    command = Path(sys.executable).with_name("optimum-cli")
    subprocess.run(
        [
            str(command),
            "export",
            "openvino",
            "--model",
            source,
            "--task",
            "text-generation-with-past",
            "--weight-format",
            kind,
            out,
        ],
        check=True,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
