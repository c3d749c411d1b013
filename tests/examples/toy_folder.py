"""A folder of the family that `examples/model_family.py` adds."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file


def toy_folder(folder: Path, width: int) -> Path:
    config = {"model_type": "toy", "vocab_size": 61, "depth": 2, "width": width, "heads": 4, "context": 64, "causal": True}
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)

    def matrix(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.2

    tensors = {"toy.words": matrix(61, width), "toy.end.scale": torch.ones(width)}
    for i in range(2):
        at = f"toy.block.{i}"
        tensors |= {f"{at}.{name}": matrix(width, width) for name in "qkvo"}
        tensors |= {
            f"{at}.gate": matrix(2 * width, width), f"{at}.up": matrix(2 * width, width), f"{at}.down": matrix(width, 2 * width),
        }  # fmt: skip
        tensors |= {f"{at}.one.scale": torch.ones(width), f"{at}.two.scale": torch.ones(width)}
    save_file(tensors, folder / "model.safetensors")
    return folder
