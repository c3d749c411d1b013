"""Writes an artifact: beside its place under another name, to the disk, and into its place in one step at the end."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

import numpy as np

from brigade.artifact.checksum import checksums, pieces_of, steps_of, table_step, written
from brigade.artifact.manifest import (
    COPIED,
    FORMAT,
    NAME,
    PARTIAL,
    VERSION,
    FileEntry,
    Manifest,
    MatrixEntry,
    Span,
    TensorEntry,
    digest_of,
    encode,
)
from brigade.backends.base import G
from brigade.backends.cpu.matrix import ARRAYS, PackedMatrix
from brigade.backends.cpu.matrix import FORMAT as PACKED_FORMAT
from brigade.backends.cpu.packer import PackedModel
from brigade.backends.sums import TensorSum
from brigade.config import ModelConfig
from brigade.errors import ConfigError
from brigade.output_files import cannot_write

if TYPE_CHECKING:
    from torch import Tensor

Made = TypeVar("Made")
PAGE, LINE = 4096, 64
FILE_BYTES = 4 << 30  # a new file begins before a tensor that would pass this


@dataclass(frozen=True)
class Facts:
    """What a manifest says beside the arrays."""

    name: str
    config: ModelConfig
    dtype: str
    quant: str
    skip_layers: tuple[str, ...]
    numerics_id: str
    tensor_sums: tuple[TensorSum, ...] = ()


def check_free(out: Path) -> None:
    """Before the long work: the place must be free, and the folder around it there."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"{out} exists already and is not an empty folder; choose another place, or remove it")
    parent = out.absolute().parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        cause = "may not be written" if parent.is_dir() else "is no folder" if parent.exists() else "does not exist"
        raise ConfigError(f"cannot write {out}: {parent} {cause}; choose a place in a folder that exists and is writable")
    if PARTIAL in out.name:
        raise ConfigError(f"{out.name!r} is named as an export under way is; choose a name without {PARTIAL!r}")


def write_artifact(
    out: Path, model: PackedModel, facts: Facts, source: Path | None, progress: Callable[[int, int], None] | None = None
) -> Manifest:
    """`source`: the folder of the tokenizer's files. A file is whole on the disk before the folder gets its name."""

    def fill(folder: Path) -> Manifest:
        weights = _Weights(folder, len(model.tensors) + len(model.matrices), progress)
        tensors = tuple(
            TensorEntry(name, str(t.dtype).removeprefix("torch."), tuple(t.shape), weights.add([_table(t)])[0])
            for name, t in model.tensors.items()
        )
        matrices = tuple(_matrix(name, matrix, facts.config, weights) for name, matrix in model.matrices.items())
        weights.close()
        copied = () if source is None else tuple(name for name in COPIED if (source / name).is_file())
        for name in copied:
            assert source is not None
            shutil.copyfile(source / name, folder / name)
            _sync(folder / name)
        manifest = Manifest(
            format=FORMAT, version=VERSION, packed_format=PACKED_FORMAT, name=facts.name, family=facts.config.family,
            config=facts.config, dtype=facts.dtype, quant=facts.quant, skip_layers=facts.skip_layers,
            numerics_id=facts.numerics_id, reduction_width=G, tokenizer=copied,
            files=(
                *(FileEntry(name, (folder / name).stat().st_size) for name in weights.names),
                *(FileEntry(name, (folder / name).stat().st_size, digest_of(folder / name)) for name in copied),
            ),
            matrices=matrices, tensors=tensors, tensor_sums=facts.tensor_sums,
        )  # fmt: skip
        (folder / NAME).write_bytes(encode(manifest))
        _sync(folder / NAME)
        return manifest

    return in_one_step(out, fill)


def in_one_step(out: Path, fill: Callable[[Path], Made]) -> Made:
    """Run `fill` on a folder beside `out`, then give it its name. What an interruption leaves keeps a name nothing opens."""
    check_free(out)
    out = out.resolve()  # once: the folder that a link names or that we stand in is replaced at the end
    partial = out.with_name(f"{out.name}{PARTIAL}{secrets.token_hex(4)}")
    try:
        partial.mkdir()
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror}; choose another place") from error
    try:
        made = fill(partial)
        _sync(partial)
        os.rename(partial, out)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise ConfigError(f"{out} was made by somebody else meanwhile; choose another place") from error
        if isinstance(error, OSError) and (error.filename is None or str(partial) in str(error.filename)):
            raise cannot_write(out, error) from error
        raise
    _sync(out.parent)
    return made


@dataclass(frozen=True)
class _Laid:
    """An array, and the pieces that have checksums (`Span`)."""

    array: np.ndarray
    rows: int = 1
    step: int = 1
    blocks: int = 1


class _Weights:
    """The files of arrays, filled one after the other."""

    def __init__(self, folder: Path, total: int, progress: Callable[[int, int], None] | None) -> None:
        self.folder, self.names, self._file = folder, list[str](), None
        self._total, self._done, self._progress = total, 0, progress

    def add(self, arrays: Sequence[_Laid]) -> list[Span]:
        """One tensor's arrays, the first on a page."""
        size = sum(_up(laid.array.nbytes, LINE) for laid in arrays)
        if self._file is None or (self._file.tell() and self._file.tell() + size > FILE_BYTES):
            self._next()
        file, spans, step = self._open, [], PAGE
        for laid in arrays:
            file.write(bytes(-file.tell() % step))
            span = Span(self.names[-1], file.tell(), laid.array.nbytes, laid.rows, laid.step, laid.blocks)
            begins = laid.array.ctypes.data - span.offset
            sums = [found for _, found in checksums(list(pieces_of(span)), lambda _, begins=begins: begins)]
            spans.append(replace(span, sums=written(sums)))
            file.write(memoryview(laid.array).cast("B") if laid.array.size else b"")
            step = LINE
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)
        return spans

    @property
    def _open(self) -> BinaryIO:
        assert self._file is not None
        return self._file

    def _next(self) -> None:
        self.close()
        self.names.append(f"weights-{len(self.names):05}.packed")
        self._file: BinaryIO | None = (self.folder / self.names[-1]).open("wb")

    def close(self) -> None:
        if self._file is None:
            return
        self._file.write(bytes(-self._file.tell() % PAGE))  # whole pages, so that no array ends at the end of the map
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None


def _matrix(name: str, matrix: PackedMatrix, config: ModelConfig, weights: _Weights) -> MatrixEntry:
    how, rows, head = matrix.layout, {}, 0
    if name.endswith(".attention.qkv"):
        kv, head = config.num_kv_heads * config.head_dim, config.head_dim
        rows = {"q": config.num_heads * config.head_dim, "k": kv, "v": kv}
    entry = MatrixEntry(
        name, how.scheme, (how.n, how.k), how.tree, how.gated, how.activation, how.group, how.blocks, how.block_k, {}, rows, head
    )
    laid = {}
    for key, array in zip(ARRAYS, matrix.arrays, strict=True):
        if array is None:
            continue
        assert isinstance(array, np.ndarray), f"{name} is a part of a matrix"
        blocks = entry.blocks_of(key)
        laid[key] = _Laid(array, entry.panels, steps_of(entry, array.nbytes, blocks), blocks)
    return replace(entry, arrays=dict(zip(laid, weights.add(list(laid.values())), strict=True)))


def _table(tensor: Tensor) -> _Laid:
    """A tensor that is used as it is."""
    import torch

    array = tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()
    return _Laid(array, tensor.shape[0], table_step(tensor.shape[0])) if tensor.dim() == 2 else _Laid(array)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _up(size: int, to: int) -> int:
    return -(-size // to) * to
