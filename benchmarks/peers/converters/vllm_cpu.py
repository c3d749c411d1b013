"""W8A8 in the compressed-tensors format: int8 by output channel, activations by token as they come; the head stays as it is."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

BY_CHANNEL = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False}
BY_TOKEN = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
SETTINGS = {
    "quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed", "ignore": ["lm_head"],
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": BY_CHANNEL, "input_activations": BY_TOKEN}},
}  # fmt: skip


def quantise(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """GPT-2 stores [in, out]: a scale for each column, and int8 that lies the same way."""
    found = {}
    for name, tensor in tensors.items():
        if ".c_" not in name or tensor.ndim != 2:
            found[name] = tensor.to(torch.bfloat16)
            continue
        scale = tensor.abs().amax(dim=0) / 127
        found[name] = (tensor / scale).round().clamp(-127, 127).to(torch.int8)
        found[name.removesuffix("weight") + "weight_scale"] = scale.unsqueeze(1)
    return found


def main(source: str, out: str, kind: str) -> None:
    assert kind == "w8a8", kind
    shutil.copytree(source, out, ignore=shutil.ignore_patterns("*.safetensors"))
    save_file(quantise(load_file(Path(source) / "model.safetensors")), Path(out) / "model.safetensors", metadata={"format": "pt"})
    path = Path(out) / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"quantization_config": SETTINGS, "torch_dtype": "bfloat16"}
    path.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
