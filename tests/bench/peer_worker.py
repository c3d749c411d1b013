"""A peer for tests: its first word on the command line says how it behaves."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from benchmarks.peers.protocol import Answer, Setup, serve


class Fake:
    def __init__(self, setup: Setup) -> None:
        if setup.settings.get("refuse"):
            raise RuntimeError("this processor\nis too old")
        print("a library's greeting, which is no answer")
        self.about = f"fake with {setup.threads} threads"

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Answer:
        how = sys.argv[1]
        if how == "dies" and len(prompts) > 1:
            print("out of luck", file=sys.stderr)
            os._exit(3)
        if how == "orphans" and len(prompts) > 1:
            print(subprocess.Popen(["sleep", "600"]).pid, file=sys.stderr)
            os._exit(4)
        if how == "hangs" and len(prompts) > 1:
            time.sleep(60)
        if how == "narrow" and len(prompts) > 1:
            raise ValueError("one request at a time")
        if how == "short":
            new_tokens -= 1
        return Answer([[prompt[0]] * new_tokens for prompt in prompts], 0.001)


if __name__ == "__main__":
    serve(Fake)
