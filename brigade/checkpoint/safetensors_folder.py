"""A folder of safetensors, proven whole before a tensor is read: index, shards, headers, lengths.

Only the files that the index names are read, or `model.safetensors` where there is no index: some publishers put a second copy of
the weights, named otherwise, beside them.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from brigade.backends.cpu.stretches import read_stretches
from brigade.checkpoint.box import Box, Shape, shape_of, stretches
from brigade.checkpoint.tensor_source import TensorSource
from brigade.errors import CheckpointError

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
CONVERT = "convert it with save_pretrained(..., safe_serialization=True)"
LONGEST_HEADER = 100_000_000
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32,
    "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "C64": 64,
}  # fmt: skip
FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # what can be read


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a tensor lies and what its header says of it."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int  # in the file
    bytes: int


def shown(name: str) -> str:
    """A name out of a file, as one short line can hold it."""
    name = name if name.isprintable() else ascii(name)
    return name if len(name) <= 120 else f"{name[:117]}..."


def read_header(path: Path) -> dict[str, Entry]:
    """The tensors of one file. Only the header is read, but its promises are held against the length of the file."""
    try:
        size, length, raw = _raw_header(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); check the file and its permissions") from error
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        entries = {name: _entry(path, 8 + length, name, described) for name, described in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        problem = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} is corrupt: its header cannot be read ({problem}); fetch the file again") from error
    _check_places(path, entries, 8 + length, size)
    return entries


def _raw_header(path: Path) -> tuple[int, int, bytes]:
    """The file's length, the header's, and the header."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start, brace = file.read(8), file.read(1)
        # A length may happen to begin like a pickle, but the header behind it always begins with a brace.
        if brace != b"{" and (start[:1] == b"\x80" or start[:2] == b"PK"):
            raise CheckpointError(f"{path} is a pickle, not safetensors; pickles can run code and are not read: {CONVERT}")
        if len(start) < 8:
            raise CheckpointError(f"{path} is truncated: {size} bytes, shorter than any header; fetch the file again")
        (length,) = struct.unpack("<Q", start)
        if length > LONGEST_HEADER or length < 2:
            raise CheckpointError(f"{path} is corrupt: its header claims {length} bytes; fetch the file again")
        if 8 + length > size:
            raise CheckpointError(f"{path} is truncated: its header needs {8 + length} bytes, the file has {size}; fetch it again")
        return size, length, brace + file.read(length - 1)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"{str(value)[:40]!r} is no number of elements or bytes")
    return value


def _entry(path: Path, data: int, name: str, described: dict[str, Any]) -> Entry:
    """One tensor; a shape, a type and two offsets that do not fit each other raise `ValueError`."""
    dtype, shape = described["dtype"], tuple(_count(size) for size in described["shape"])
    start, end = (_count(offset) for offset in described["data_offsets"])
    if dtype not in BITS:
        raise ValueError(f"tensor {shown(name)} is of type {shown(str(dtype))}, which safetensors does not have")
    if (end - start) * 8 != math.prod(shape) * BITS[dtype]:
        raise ValueError(f"tensor {shown(name)} is {dtype} {list(shape)}, but lies from byte {start} to {end}")
    return Entry(path, dtype, shape, data + start, end - start)


def _check_places(path: Path, entries: dict[str, Entry], data: int, size: int) -> None:
    """Tensors lie one after the other: none over another, nothing between them, nothing behind."""
    expected = max((entry.start + entry.bytes for entry in entries.values()), default=data)
    if expected != size:
        state = "truncated" if expected > size else "corrupt"
        raise CheckpointError(f"{path} is {state}: its header describes {expected} bytes, the file has {size}; fetch it again")
    at = data
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].bytes)):
        if entry.start != at:
            raise CheckpointError(
                f"{path} is corrupt: tensor {shown(name)} begins at byte {entry.start}, but the tensor before it ends at {at}; "
                "fetch the file again"
            )
        at += entry.bytes


def read_index(folder: Path) -> dict[str, str] | None:
    """Tensors and the names of their files; None where there is no index."""
    path = folder / INDEX
    if not path.exists():
        return None
    try:
        places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        if not isinstance(places, dict) or not places:
            raise ValueError("its weight_map places no tensor")
        for name, file in places.items():
            if not isinstance(file, str) or Path(file).name != file or not file.isprintable():
                raise ValueError(f"it places {shown(name)} in {str(file)[:80]!r}, which is no file's name")
        return places
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); check the file and its permissions") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        problem = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} is corrupt ({problem}); fetch the file again") from error


class SafetensorsFolder(TensorSource):
    """All tensors of a checkpoint by name. Of a box only its own bytes are read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: dict[str, Entry] = {}
        index = read_index(folder)
        if index is None:
            self.entries = read_header(self._single())
            return
        files = {file: self._shard(name, file) for name, file in index.items()}
        headers = {file: read_header(path) for file, path in files.items()}
        for header in headers.values():
            self.entries.update(header)
        for name, file in index.items():
            if name not in headers[file]:
                raise CheckpointError(f"tensor {shown(name)} is missing from {files[file]}, where the index places it")
            self.entries[name] = headers[file][name]  # another file may hold one of the same name

    def _shard(self, name: str, file: str) -> Path:
        path = self.folder / file
        if not path.is_file():
            raise CheckpointError(f"shard {path} is missing: the index places {shown(name)} in it; fetch the shard")
        return path

    def _single(self) -> Path:
        path = self.folder / SINGLE
        if path.is_file():
            return path
        others = sorted(self.folder.glob("*.safetensors"))
        if others:
            raise CheckpointError(
                f"{self.folder} has neither {INDEX} nor {SINGLE}, which say what its weights are, only {shown(others[0].name)}; "
                f"fetch {INDEX}, or rename the file if it holds all weights"
            )
        for pattern in PICKLES:
            for found in sorted(self.folder.glob(pattern)):
                raise CheckpointError(f"{found} is a pickle; only safetensors are read, since a pickle can run code: {CONVERT}")
        raise CheckpointError(f"{self.folder} holds no *.safetensors file; give a model folder with its weights")

    def shape(self, name: str) -> Shape:
        return self.entries[name].shape

    def dtype(self, name: str) -> torch.dtype:
        return FLOATS[self.entries[name].dtype]

    def place(self, name: str) -> Path:
        return self.entries[name].file

    def _read(self, name: str, box: Box) -> Tensor:
        """Not mapped: pages of a mapped file would stay in the process until it is closed."""
        entry = self.entries[name]
        tensor = torch.empty(shape_of(box), dtype=FLOATS[entry.dtype])
        try:
            with entry.file.open("rb", buffering=0) as file:
                is_whole = read_stretches(file.fileno(), *_places(entry, box), tensor.view(-1).view(torch.uint8).numpy())
        except OSError as error:
            raise CheckpointError(f"{entry.file} cannot be read ({error.strerror}); check the file and the disk") from error
        if not is_whole:
            raise CheckpointError(f"{entry.file} became shorter while it was read; fetch the file again")
        return tensor


def _places(entry: Entry, box: Box) -> tuple[np.ndarray, int]:
    """Of every stretch of a box its first byte in the file, and how many bytes each has."""
    starts, length = stretches(entry.shape, box)
    size = BITS[entry.dtype] // 8
    return starts * size + entry.start, length * size
