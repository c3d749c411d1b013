"""Asks the math library for a fixed order of summation; must run before its first matrix product.

MKL reads `MKL_CBWR` once, at first use. With STRICT its results do not depend on the number of rows or threads; where it is
not understood (another vendor's processor, another library) it changes nothing, and the probes (`matmul`, and `probe` at
each model's own shapes) find out.
"""

from __future__ import annotations

import os

import torch


def ask_for_strict_order() -> None:
    if "MKL_CBWR" in os.environ:  # the user's own choice; the probe decides whether it is enough
        return
    capability = torch.backends.cpu.get_cpu_capability()
    level = {"AVX512": "AVX512", "AVX2": "AVX2"}.get(capability)
    if level is not None and torch.backends.mkl.is_available():
        os.environ["MKL_CBWR"] = f"{level},STRICT"


def computed_by(device: torch.device) -> str:
    """The library's version, what it dispatched to, and the order that its products keep."""
    version = f"torch-{torch.__version__}"
    if device.type == "cuda":
        return f"{version}/sm{''.join(map(str, torch.cuda.get_device_capability(device)))}"
    order = os.environ.get("MKL_CBWR") if torch.backends.mkl.is_available() else None
    asked = "" if order is None else f"/mkl-{order.replace(',', '-').replace('/', '-')}"
    return f"{version}/{torch.backends.cpu.get_cpu_capability()}{asked}"
