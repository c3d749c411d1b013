"""Opens an artifact: its manifest and small files at once, its weights mapped into memory when they are wanted."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from brigade.artifact.checksum import damaged_chunk
from brigade.artifact.manifest import (
    AGAIN,
    COPIED,
    NAME,
    PARTIAL,
    FileEntry,
    Manifest,
    MatrixEntry,
    Span,
    TensorEntry,
    read_manifest,
)
from brigade.backends.base import G
from brigade.backends.cpu.matrix import ACTIVATIONS, ARRAYS, FORMAT, KINDS, Layout, PackedMatrix
from brigade.backends.cpu.numerics import without_path
from brigade.backends.cpu.packer import PackedModel
from brigade.errors import CheckpointError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
COPY = f"copy the folder again, or {AGAIN}"
Progress = Callable[[int, int], None]


def is_artifact(folder: Path) -> bool:
    """Or what an interruption left of one."""
    return (folder / NAME).is_file() or PARTIAL in folder.absolute().name or any(folder.glob("weights-*.packed"))


@dataclass(frozen=True)
class Artifact:
    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> Artifact:
        """Everything is proven here but the weights, which `read` proves: it looks at every byte."""
        if PARTIAL in folder.absolute().name:
            raise CheckpointError(f"{folder} is what an interrupted export left; remove it, and {AGAIN}")
        artifact = cls(folder, read_manifest(folder))
        artifact._check()
        return artifact

    def _check(self) -> None:
        manifest = self.manifest
        if (manifest.packed_format, manifest.reduction_width) != (FORMAT, G):
            raise CheckpointError(
                f"{self.folder} is packed in format {manifest.packed_format} for trees of {manifest.reduction_width} blocks; "
                f"these kernels read format {FORMAT} and {G} blocks: {AGAIN}"
            )
        for entry in manifest.files:
            path = self.folder / entry.name
            size = path.stat().st_size if path.is_file() else None
            if size is None:
                raise CheckpointError(f"{path} is missing; {COPY}")
            if size != entry.bytes:
                state = "truncated" if size < entry.bytes else "damaged"
                raise CheckpointError(f"{path} is {state}: it has {size} bytes, the manifest says {entry.bytes}; {COPY}")
            if entry.name in manifest.tokenizer:
                self._prove(entry, memoryview(path.read_bytes()))
        for name in COPIED:  # which would be read, and nothing proves it
            if name not in manifest.tokenizer and (self.folder / name).exists():
                raise CheckpointError(f"{self.folder / name} is none of the artifact's files; remove it, or {AGAIN} with it")

    def check_numerics(self, own: str) -> None:
        """The path may be another, since the packed bytes are the same for all; anything else would change the model."""
        if without_path(own) != without_path(self.manifest.numerics_id):
            raise CheckpointError(f"{self.folder} was exported for {self.manifest.numerics_id}, but this is {own}; {AGAIN}")

    @property
    def weight_files(self) -> list[FileEntry]:
        return [entry for entry in self.manifest.files if entry.name not in self.manifest.tokenizer]

    @cached_property
    def _maps(self) -> dict[str, mmap.mmap]:
        maps = {}
        for entry in self.weight_files:
            with (self.folder / entry.name).open("rb") as file:
                # A private map: the page cache's own pages, which nobody writes; torch asks for one that could be written.
                maps[entry.name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            if hasattr(mmap, "MADV_WILLNEED"):
                maps[entry.name].madvise(mmap.MADV_WILLNEED)  # the disk reads ahead of the checksums
        return maps

    def read(self, progress: Progress | None = None) -> PackedModel:
        """The weights, where they lie: nothing is copied, every byte is held against its checksum."""
        total, done = sum(entry.bytes for entry in self.weight_files), 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(done, total)

        for entry in self.weight_files:
            self._prove(entry, memoryview(self._maps[entry.name]), advance)
        return PackedModel(
            {entry.name: self._tensor(entry) for entry in self.manifest.tensors},
            {entry.name: self._matrix(entry) for entry in self.manifest.matrices},
        )

    def _prove(self, entry: FileEntry, data: memoryview, advance: Callable[[int], None] | None = None) -> None:
        bad = damaged_chunk(data, entry.chunk, entry.crc32, advance)
        if bad is not None:
            first = bad * entry.chunk
            last = min(first + entry.chunk, entry.bytes) - 1
            raise CheckpointError(
                f"{self.folder / entry.name} is damaged: bytes {first} to {last} do not give their checksum; {COPY}"
            )

    def _array(self, span: Span, dtype: type) -> np.ndarray:
        data = self._maps.get(span.file)
        if data is None or span.offset % 64 or span.offset < 0 or span.offset + span.bytes > len(data):
            raise CheckpointError(f"{self.folder / NAME} places an array at {span}, where there is none; {AGAIN}")
        return np.frombuffer(data, dtype, span.bytes // np.dtype(dtype).itemsize, span.offset)

    def _tensor(self, entry: TensorEntry) -> torch.Tensor:
        if entry.dtype not in DTYPES:
            raise CheckpointError(f"{self.folder / NAME} has tensor {entry.name} as {entry.dtype}; {AGAIN}")
        flat = torch.from_numpy(self._array(entry.span, np.uint8)).view(DTYPES[entry.dtype])
        if flat.numel() != int(np.prod(entry.shape)):
            raise CheckpointError(f"{self.folder / NAME} gives {entry.name} the shape {list(entry.shape)}, not its bytes; {AGAIN}")
        return flat.view(entry.shape)

    def _matrix(self, entry: MatrixEntry) -> PackedMatrix:
        if entry.scheme not in KINDS or entry.activation not in ACTIVATIONS:
            raise CheckpointError(f"{self.folder / NAME} has {entry.name} as {entry.scheme} with {entry.activation}; {AGAIN}")
        layout = Layout(entry.scheme, *entry.shape, entry.tree, entry.gated, entry.activation, entry.group)
        arrays = []
        for (name, dtype), count in zip(ARRAYS.items(), layout.counts(), strict=True):
            span = entry.arrays.get(name)
            wanted = count * np.dtype(dtype).itemsize
            # The kernels trust these lengths, so they are held against the architecture's. A bias may be absent.
            if (0 if span is None else span.bytes) != wanted and not (span is None and name == "bias"):
                raise CheckpointError(f"{self.folder / NAME} gives {name} of {entry.name} another length than {wanted}; {AGAIN}")
            arrays.append(None if span is None else self._array(span, dtype))
        return PackedMatrix.over(layout, tuple(arrays))
