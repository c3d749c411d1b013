"""A worker that does what the first order says, step by step: `python -m tests.parallel.worker`, started by the tests' leaders."""

from __future__ import annotations

import json
import os
import signal
import sys
import time

if f"early {os.environ.get('RANK')}" == os.environ.get("BRIGADE_TEST"):
    sys.exit("this rank cannot begin")

from brigade.errors import CheckpointError
from brigade.parallel.launch import enter


def misbehave(what: str) -> None:
    if what == "raise":
        raise LookupError("no such\nlayer")
    if what == "refuse":
        raise CheckpointError("model.safetensors is torn")
    if what == "exit":
        os._exit(7)
    if what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    while what == "hang":
        time.sleep(1)
    while what == "spin":
        pass


def live() -> None:
    mesh, rank, order, links = enter()
    plan = json.loads(order)
    for step in range(10**9):
        given = links.receive_order()
        if plan.get("rank") == rank and plan.get("step") == step:
            misbehave(plan["what"])
        parts = links.exchange.gather_bytes(b"%d of %d" % (rank, step)) if mesh.tp > 1 else []
        links.tick()
        links.reply(json.dumps([rank, len(given), [part.decode() for part in parts]]).encode())


if __name__ == "__main__":
    live()
