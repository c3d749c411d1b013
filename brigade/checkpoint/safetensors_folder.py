"""A folder of safetensors, proven whole before a tensor is read: headers, lengths, shards, index."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from brigade.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
CONVERT = "convert it with save_pretrained(..., safe_serialization=True)"


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a tensor lies and what its header says of it."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, Entry]:
    """The tensors of one file. Only the header is read, but its promises are held against the length of the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start, brace = file.read(8), file.read(1)
        # A length may happen to begin like a pickle, but the header behind it always begins with a brace.
        if brace != b"{" and (start[:1] == b"\x80" or start[:2] == b"PK"):
            raise CheckpointError(f"{path} is a pickle, not safetensors; pickles can run code and are not read: {CONVERT}")
        if len(start) < 8:
            raise CheckpointError(f"{path} is truncated: {size} bytes, shorter than any header; fetch the file again")
        (length,) = struct.unpack("<Q", start)
        if length > 100_000_000 or length < 2:
            raise CheckpointError(f"{path} is corrupt: its header claims {length} bytes; fetch the file again")
        if 8 + length > size:
            raise CheckpointError(f"{path} is truncated: its header needs {8 + length} bytes, the file has {size}; fetch it again")
        raw = brace + file.read(length - 1)
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        entries = {name: Entry(path, e["dtype"], tuple(e["shape"])) for name, e in header.items()}
        ends = [e["data_offsets"][1] for e in header.values()]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{path} is corrupt: its header cannot be read ({error}); fetch the file again") from error
    expected = 8 + length + max(ends, default=0)
    if expected != size:
        state = "truncated" if expected > size else "corrupt"
        raise CheckpointError(f"{path} is {state}: its header describes {expected} bytes, the file has {size}; fetch it again")
    return entries


class SafetensorsFolder:
    """All tensors of a checkpoint by name, read from memory-mapped files as they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: dict[str, Entry] = {}
        for path in self._files():
            self.entries.update(read_header(path))
        self._check_index()

    def _files(self) -> list[Path]:
        found = sorted(self.folder.glob("*.safetensors"))
        if found:
            return found
        for pattern in PICKLES:
            for path in sorted(self.folder.glob(pattern)):
                raise CheckpointError(f"{path} is a pickle; only safetensors are read, since a pickle can run code: {CONVERT}")
        raise CheckpointError(f"{self.folder} holds no *.safetensors file; give a model folder with its weights")

    @cached_property
    def _index(self) -> dict[str, str]:
        path = self.folder / "model.safetensors.index.json"
        if not path.exists():
            return {}
        try:
            return dict(json.loads(path.read_text(encoding="utf-8"))["weight_map"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is corrupt ({error}); fetch the file again") from error

    def _check_index(self) -> None:
        for name, file in self._index.items():
            if not (self.folder / file).exists():
                raise CheckpointError(f"shard {self.folder / file} is missing: the index places {name} in it; fetch the shard")
            if name not in self.entries:
                raise CheckpointError(f"tensor {name} is missing from {self.folder / file}, where the index places it")

    @cached_property
    def _handles(self) -> dict[Path, object]:
        from safetensors import safe_open

        return {path: safe_open(path, framework="pt") for path in {entry.file for entry in self.entries.values()}}

    def read(self, name: str) -> Tensor:
        return self._handles[self.entries[name].file].get_tensor(name)

    def __contains__(self, name: str) -> bool:
        return name in self.entries
