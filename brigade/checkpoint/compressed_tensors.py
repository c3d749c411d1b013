"""Writes a Hugging Face folder whose matrices are quantised in the compressed-tensors format, which other engines read.

Every tensor keeps the name and the place it has in the checkpoint it comes from, so no name is mapped back: the family's name map
only says which of our matrices a tensor belongs to. Scales belong to an output (and a group of K), so quantising q, k and v apart
gives the numbers that quantising them joined does.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from brigade.artifact.manifest import COPIED
from brigade.artifact.writer import in_one_step
from brigade.backends.cpu.matrix import pack
from brigade.backends.cpu.quant import Quant
from brigade.checkpoint.load import ModelSource, name_map, open_weights
from brigade.checkpoint.safetensors_folder import SafetensorsFolder
from brigade.errors import ConfigError

GROUPS = (128, 64, 32)  # of K that share an int4 scale: the largest that every matrix allows
SHARD_BYTES = 4 << 30
BITS = {"int8": 8, "int8-weight": 8, "int4": 4}
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Written:
    tensors: int
    quantised: int
    whole: tuple[str, ...]  # matrices that no group size fits, and so stay whole


def write_compressed_tensors(
    source: ModelSource, out: Path, dtype: torch.dtype, quant: Quant, progress: Progress | None = None
) -> Written:
    _check(source, quant)
    assert source.path is not None
    files, names = open_weights(source)
    wanted = _matrices(source, files, quant)
    widths = {name: files.shape(name)[1] for name in wanted}
    whole = tuple(name for name, width in widths.items() if quant.scheme == "int4" and width % GROUPS[-1])
    group = next(g for g in GROUPS if g == GROUPS[-1] or all(width % g == 0 for name, width in widths.items() if name not in whole))
    chosen = set(wanted) - set(whole)
    if quant.scheme != "none" and not chosen:
        raise ConfigError(f"nothing of {source.name} is left to quantise beside skip_layers and the head; name fewer layers")

    def fill(folder: Path) -> Written:
        shards = _Shards(folder)
        ordered = sorted({name for operation in names.values() for name in operation.names})
        for done, name in enumerate(ordered):
            tensor = files.read(name).to(dtype)
            for key, part in (_quantised(name, tensor, quant, group) if name in chosen else {name: tensor}).items():
                shards.add(key, part.contiguous())
            if progress is not None:
                progress(done + 1, len(ordered))
        shards.close()
        linear = [name for name in ordered if len(files.shape(name)) == 2]
        _write_config(source.path, folder, dtype, _settings(quant, group, sorted(set(linear) - chosen)))
        return Written(len(ordered), len(chosen), whole)

    return in_one_step(out, fill)


def _check(source: ModelSource, quant: Quant) -> None:
    if source.family is None:
        raise ConfigError(f"{source.name} is a recipe, which has no names that other engines know; give a model folder")
    if quant.scheme == "none":
        return
    if "head" in quant.skip:
        raise ConfigError("skip_layers names head, which compressed-tensors never quantises; drop it from the list")
    if quant.scheme not in BITS:
        raise ConfigError(f"--quant {quant.scheme} is a scheme of ours, which others do not know; use {', '.join(BITS)} or none")
    if source.config.moe is not None:
        raise ConfigError(f"{source.name} has experts, which other engines store in ways of their own; use --quant none")
    if any(operation.is_turned for operation in source.family.names(source.config).values()):
        raise ConfigError(
            f"{source.name} is of family {source.family.name}, whose matrices are stored turned, and compressed-tensors does not "
            "know them; use --quant none"
        )


def _matrices(source: ModelSource, files: SafetensorsFolder, quant: Quant) -> list[str]:
    """The checkpoint's names of what is quantised. The head stays whole: engines share it with the word table, or expect it so."""
    found = []
    for ours, operation in name_map(source, files).items():
        matrix, kind = ours.rpartition(".")[::2]
        if kind == "weight" and matrix != "head" and quant.of(matrix, "own") != "own":
            found += operation.names
    return sorted(found)


def _quantised(name: str, weight_NK: Tensor, quant: Quant, group: int) -> dict[str, Tensor]:
    """Where activations are quantised too, engines want plain int8; else values moved above zero, packed into int32."""
    codes_NK, scale_NG = pack(weight_NK, None, quant.scheme, tree=False, group=group).codes()
    scale = {f"{name}_scale": scale_NG.to(weight_NK.dtype)}
    if quant.scheme == "int8":
        return {name: codes_NK, **scale}
    shape = torch.tensor(weight_NK.shape, dtype=torch.int64)
    return {f"{name}_packed": pack_int32(codes_NK, BITS[quant.scheme]), f"{name}_shape": shape, **scale}


def pack_int32(codes_NK: Tensor, bits: int) -> Tensor:
    """Four or eight values to an int32, the first one lowest."""
    raised = (codes_NK.to(torch.int16) + (1 << (bits - 1))).to(torch.uint8)
    raised = torch.nn.functional.pad(raised, (0, -raised.shape[1] % (32 // bits)))
    if bits == 4:
        raised = raised[:, ::2] | raised[:, 1::2] << 4
    return raised.contiguous().view(torch.int32)


def _settings(quant: Quant, group: int, ignore: list[str]) -> dict[str, Any] | None:
    if quant.scheme == "none":
        return None
    weights: dict[str, Any] = {"num_bits": BITS[quant.scheme], "type": "int", "symmetric": True, "dynamic": False}
    weights |= {"strategy": "group", "group_size": group} if quant.scheme == "int4" else {"strategy": "channel"}
    inputs = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": True, "strategy": "token"}
    ignored = [name.removesuffix(".weight") for name in ignore if name.endswith(".weight")]
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized" if quant.scheme == "int8" else "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {"targets": ["Linear"], "weights": weights, "input_activations": inputs if quant.scheme == "int8" else None}
        },
        "ignore": sorted({*ignored, "lm_head", "embed_out"}),
    }


def _write_config(source: Path, folder: Path, dtype: torch.dtype, quantisation: dict[str, Any] | None) -> None:
    for name in COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    values = json.loads((source / "config.json").read_text(encoding="utf-8"))
    values |= {key: str(dtype).removeprefix("torch.") for key in ("dtype", "torch_dtype") if key in values or key == "dtype"}
    if quantisation is not None:
        values["quantization_config"] = quantisation
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


class _Shards:
    """Safetensors files of a bounded size, and their index where there are several."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._held, self._bytes = folder, dict[str, Tensor](), 0
        self._shards: list[list[str]] = []
        self._total = 0
        self._umask = os.umask(0)
        os.umask(self._umask)

    def add(self, name: str, tensor: Tensor) -> None:
        if self._held and self._bytes + tensor.nbytes > SHARD_BYTES:
            self._flush()
        self._held[name] = tensor
        self._bytes, self._total = self._bytes + tensor.nbytes, self._total + tensor.nbytes

    def _flush(self) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        try:
            save_file(self._held, self.folder / f"shard-{len(self._shards)}", metadata={"format": "pt"})
        except SafetensorError as error:  # its own word for what the system said
            raise (OSError(str(error)) if "I/O" in str(error) or "os error" in str(error) else error) from error
        (self.folder / f"shard-{len(self._shards)}").chmod(0o666 & ~self._umask)  # the library lets nobody else read it
        self._shards.append(list(self._held))
        self._held, self._bytes = {}, 0

    def close(self) -> None:
        self._flush()
        count, places = len(self._shards), {}
        for number, names in enumerate(self._shards):
            file = "model.safetensors" if count == 1 else f"model-{number + 1:05}-of-{count:05}.safetensors"
            (self.folder / f"shard-{number}").rename(self.folder / file)
            places |= dict.fromkeys(names, file)
        if count > 1:
            index = {"metadata": {"total_size": self._total}, "weight_map": places}
            (self.folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
