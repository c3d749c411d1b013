"""`brigade env`: what a bug report needs."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "numpy",
    "safetensors",
    "tokenizers",
    "jinja2",
    "msgspec",
    "pyzmq",
    "rich",
    "psutil",
    "pyyaml",
    "huggingface_hub",
    "transformers",
)
FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "neon", "asimd")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--as-json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    facts = collect()
    if args.as_json:
        print(json.dumps(facts, indent=1))
    else:
        for name, value in facts.items():
            shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
            print(f"{name:>17}: {shown}")
    return 0


def collect() -> dict[str, Any]:
    import psutil
    import torch

    from brigade import __version__
    from brigade.backends.registry import backend_names, get_backend
    from brigade.engine.memory_plan import readable
    from brigade.errors import UserError

    memory = psutil.virtual_memory()
    numerics = {}
    for name in backend_names():
        try:
            numerics[name] = get_backend(name).numerics_id
        except UserError as error:
            numerics[name] = f"refused: {error}"
    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return {
        "brigade": __version__, "python": sys.version.split()[0], "system": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES}, "processor": processor(),
        "instructions": " ".join(_flags()) or "unknown", "cores": psutil.cpu_count(logical=True),
        "threads": computing_threads(), "memory": f"{readable(memory.total)}, {readable(memory.available)} available",
        "cuda": ", ".join(cuda) or "none", "MKL_CBWR": os.environ.get("MKL_CBWR", "not set"), "backends": numerics,
        "kernels": native(),
    }  # fmt: skip


def computing_threads() -> dict[str, str]:
    """By backend, since each computes with threads of its own; and which backend it is where nobody names one."""
    import torch

    from brigade.backends.cpu.library import find_kernels
    from brigade.backends.cpu.threads import describe_pool
    from brigade.errors import UserError

    try:
        built = find_kernels() is not None
        pool = f"{describe_pool()} (the kernels' own pool)" if built else "none (its kernels were not built)"
        default = "the cpu backend" if built else "the reference backend"
    except UserError as error:
        pool, default = f"refused: {error}", "nothing, since this is refused"
    return {
        "cpu backend": pool, "reference backend": f"{torch.get_num_threads()} of torch", "computing by default": default,
    }  # fmt: skip


def native() -> dict[str, str] | str:
    """The kernels: the path in use and those there are, what the processor has, and the pool."""
    from brigade.backends.cpu.library import available_paths, find_kernels, kernels
    from brigade.errors import UserError

    try:
        if find_kernels() is None:
            return "not built (no C++ compiler at install)"
        from brigade.backends.cpu.threads import describe_pool

        library = kernels()
        chosen_by = "BRIGADE_PATH" if os.environ.get("BRIGADE_PATH") else "the processor"
        return {
            "path": library.br_path().decode(), "chosen by": chosen_by, "paths here": " ".join(available_paths()),
            "instructions": library.br_describe().decode().strip(), "pool": describe_pool(),
        }  # fmt: skip
    except UserError as error:
        return f"refused: {error}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _cpu_info(key: str) -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")


def processor() -> str:
    """Its name, as the system says it."""
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _flags() -> list[str]:
    found = set((_cpu_info("flags") or _cpu_info("Features")).split())
    return [flag for flag in FLAGS if flag in found]
