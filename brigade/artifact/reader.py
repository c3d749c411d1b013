"""Opens an artifact: its manifest and small files at once, its weights mapped into memory when they are wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from brigade.artifact.checksum import Piece, pieces_of
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
    digest_of,
    read_manifest,
)
from brigade.artifact.maps import Maps
from brigade.backends.base import G
from brigade.backends.cpu.cut import ROWS, Place
from brigade.backends.cpu.matrix import ACTIVATIONS, ARRAYS, FORMAT, KINDS, Layout, PackedMatrix
from brigade.backends.cpu.numerics import without_path
from brigade.backends.cpu.packer import PackedModel
from brigade.errors import CheckpointError
from brigade.mesh import Cut

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
        """Everything is proven here but the weights."""
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
            if entry.name in manifest.tokenizer and digest_of(path) != entry.sha256:
                raise CheckpointError(f"{path} is damaged: its bytes do not give their checksum; {COPY}")
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
    def maps(self) -> Maps:
        return Maps(self.folder, [entry.name for entry in self.weight_files])

    def read(self, progress: Progress | None = None) -> MappedModel:
        """The weights, where they lie. `MappedModel.prove` holds those that are used against their checksums."""
        return MappedModel(
            {entry.name: self._tensor(entry) for entry in self.manifest.tensors},
            {entry.name: self._matrix(entry) for entry in self.manifest.matrices},
            self,
            progress,
        )

    def _array(self, span: Span, dtype: type) -> np.ndarray:
        if span.offset % 64 or span.offset < 0 or span.offset + span.bytes > self.maps.size(span.file):
            place = f"{span.file}, byte {span.offset}"
            raise CheckpointError(
                f"{self.folder / NAME} places an array of {span.bytes} bytes at {place}, where there is none; {AGAIN}"
            )
        if not span.sums:
            raise CheckpointError(f"{self.folder / NAME} has an array without checksums; {AGAIN}")
        return np.frombuffer(self.maps[span.file], dtype, span.bytes // np.dtype(dtype).itemsize, span.offset)

    def _check_pieces(self, name: str, span: Span, rows: int, blocks: int) -> None:
        """What is taken is proven by rows and blocks, so these must be the array's own."""
        if (span.rows, span.blocks) != (rows, blocks):
            shown = f"{span.rows} rows of {span.blocks} blocks"
            raise CheckpointError(f"{self.folder / NAME} proves {name} in {shown}, but it has {rows} of {blocks}; {AGAIN}")

    def _tensor(self, entry: TensorEntry) -> torch.Tensor:
        if entry.dtype not in DTYPES:
            raise CheckpointError(f"{self.folder / NAME} has tensor {entry.name} as {entry.dtype}; {AGAIN}")
        flat = torch.from_numpy(self._array(entry.span, np.uint8)).view(DTYPES[entry.dtype])
        if flat.numel() != int(np.prod(entry.shape)):
            raise CheckpointError(f"{self.folder / NAME} gives {entry.name} the shape {list(entry.shape)}, not its bytes; {AGAIN}")
        self._check_pieces(entry.name, entry.span, entry.shape[0] if len(entry.shape) == 2 else 1, 1)
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
            if span is not None:
                self._check_pieces(entry.name, span, entry.panels, entry.blocks_of(name))
            arrays.append(None if span is None else self._array(span, dtype))
        if (entry.blocks, entry.block_k) != (layout.blocks, layout.block_k):
            said = f"{entry.name} in {entry.blocks} blocks of {entry.block_k}, not {layout.blocks} of {layout.block_k}"
            raise CheckpointError(f"{self.folder / NAME} has {said}; {AGAIN}")
        return PackedMatrix.over(layout, tuple(arrays))


@dataclass(frozen=True)
class MappedModel(PackedModel):
    """Its arrays are the pages of the artifact's files: nothing is read before it is used, and nothing copied."""

    artifact: Artifact
    progress: Progress | None = None

    def prove(self, places: Mapping[str, Place] | None = None, cuts: Mapping[str, Cut | None] | None = None) -> None:
        """What a rank takes, or everything. Where nothing is left out, the filling between arrays must be zeros as well."""
        manifest, pieces = self.artifact.manifest, list[Piece]()
        for tensor in manifest.tensors:
            if cuts is None or tensor.name in cuts:
                cut = None if cuts is None else cuts[tensor.name]
                pieces += pieces_of(tensor.span, None if cut is None or cut.axis != ROWS else cut.runs)
        for matrix in manifest.matrices:
            if places is None or matrix.name in places:
                place = None if places is None else places[matrix.name]
                cut_along_k = place is not None and place.blocks != (0, matrix.blocks)
                for kind, span in matrix.arrays.items():
                    if not (kind == "colsum" and cut_along_k):  # which is made anew of the part
                        pieces += pieces_of(span, *(() if place is None else (place.panels, place.blocks)))
        total, done = sum(piece.size for piece in pieces), 0
        every = sum(span.bytes for span in manifest.spans)

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if self.progress is not None:
                self.progress(done, total)

        maps = self.artifact.maps
        bad = maps.damaged(sorted(pieces, key=lambda piece: (piece.file, piece.offset)), advance)
        if bad is None and total == every:
            bad = maps.filled([(span.file, span.offset, span.offset + span.bytes) for span in manifest.spans])
        if bad is not None:
            where = f"{self.artifact.folder / bad.file} is damaged: bytes {bad.offset} to {bad.end - 1}"
            raise CheckpointError(f"{where} do not give their checksum; {COPY}")
