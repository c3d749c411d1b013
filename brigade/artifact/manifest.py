"""`manifest.json`: what an artifact is, and where each of its arrays lies. Written last, and sealed by a checksum of its own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from brigade.backends.sums import TensorSum
from brigade.config import ModelConfig
from brigade.errors import CheckpointError
from brigade.mesh import PANEL

NAME = "manifest.json"
FORMAT, VERSION = "brigade-artifact", 2
DIGITS = 8  # of a checksum, hexadecimal
PARTIAL = ".partial-"  # in the name of a folder that is being written
AGAIN = "export the model again"
# What lies beside the weights, where the model has it: all that the tokenizer and the sampling defaults are read from.
COPIED = (
    "tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json", "special_tokens_map.json",
    "chat_template.jinja", "chat_template.json", "generation_config.json", "config.json",
)  # fmt: skip
_SEAL = b'{"seal": "%s",\n'
_SEALED = len(_SEAL % bytes(64))


@dataclass(frozen=True)
class FileEntry:
    """A file of the artifact. One of weights has no checksum of its own: its arrays have them."""

    name: str
    bytes: int
    sha256: str = ""

    def __post_init__(self) -> None:
        if Path(self.name).name != self.name or self.bytes < 0:
            raise ValueError(f"a file {self.name!r} of {self.bytes} bytes")


@dataclass(frozen=True)
class Span:
    """Where an array lies, and its checksums. Tensors begin on a page of 4096 bytes, the arrays inside them on 64.

    An array is `rows` equal rows (panels of a matrix, rows of a table), each of `blocks` equal blocks. A piece is one block of
    `step` rows that follow each other, and has one checksum: those of the first rows, block by block, then of the next."""

    file: str
    offset: int
    bytes: int
    rows: int = 1
    step: int = 1
    blocks: int = 1
    sums: str = ""

    def __post_init__(self) -> None:
        shape = self.rows, self.step, self.blocks
        if min(self.bytes, self.offset) < 0 or min(shape) < 1 or self.bytes % (self.rows * self.blocks):
            raise ValueError(f"an array of {self.bytes} bytes at {self.offset} in pieces of {list(shape)}")
        if self.sums and len(self.sums) != -(-self.rows // self.step) * self.blocks * DIGITS:
            raise ValueError(f"an array in pieces of {list(shape)} with {len(self.sums)} digits of checksums")
        if not set(self.sums) <= set("0123456789abcdef"):
            raise ValueError(f"checksums {self.sums[:16]}... that are no hexadecimal digits")


@dataclass(frozen=True)
class MatrixEntry:
    """A packed matrix: panels of 32 outputs one after the other, K inside a panel in `blocks` equal blocks.

    Cutting by outputs takes a run of panels of every array; cutting by K takes a run of blocks out of each panel of `data`
    (and of int4's `scale`, which has one number for each group of K and output). A scale of a whole column stays that of the
    whole column.
    """

    name: str
    scheme: str
    shape: tuple[int, int]  # outputs, K
    tree: bool
    gated: bool  # panels hold 16 gate outputs, then the 16 up outputs that belong to them
    activation: str | None
    group: int
    blocks: int
    block_k: int  # K of a block, filled with zeros to whole tiles and groups
    arrays: dict[str, Span]
    rows: dict[str, int]  # attention's first matrix: how many outputs are queries, keys and values,
    head: int  # and how many of them one head; else 0

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or self.group not in (32, 64, 128):
            raise ValueError(f"a matrix {self.name} of shape {list(self.shape)} in groups of {self.group}")

    def blocks_of(self, kind: str) -> int:
        """Into how many blocks a panel of one of its arrays is cut along K."""
        along_k = kind == "data" or (kind == "scale" and self.scheme == "int4")
        return self.blocks if self.tree and along_k else 1

    @property
    def panels(self) -> int:
        return -(-(self.shape[0] // 2) // (PANEL // 2)) if self.gated else -(-self.shape[0] // PANEL)


@dataclass(frozen=True)
class TensorEntry:
    """An array that is used as it is: a norm, the word table, the position table."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    span: Span


@dataclass(frozen=True)
class Manifest:
    format: str
    version: int
    packed_format: int  # of the packed bytes, which are the same for every instruction set
    name: str
    family: str
    config: ModelConfig
    dtype: str
    quant: str
    skip_layers: tuple[str, ...]
    numerics_id: str  # of the machine that exported; its path says nothing of the bytes here
    reduction_width: int
    tokenizer: tuple[str, ...]  # the files beside the weights
    files: tuple[FileEntry, ...]
    matrices: tuple[MatrixEntry, ...]
    tensors: tuple[TensorEntry, ...]
    tensor_sums: tuple[TensorSum, ...]  # what the model's fingerprint is made of: counted once, of bytes that every run proves

    @property
    def weight_bytes(self) -> int:
        """Of everything that is mapped into memory."""
        return sum(span.bytes for span in self.spans)

    @property
    def spans(self) -> list[Span]:
        return [tensor.span for tensor in self.tensors] + [span for matrix in self.matrices for span in matrix.arrays.values()]


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def encode(manifest: Manifest) -> bytes:
    body = msgspec.json.format(msgspec.json.encode(manifest), indent=1)[1:]
    return _SEAL % hashlib.sha256(body).hexdigest().encode() + body


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder, proven whole; nothing else is read."""
    path = folder / NAME
    if not path.is_file():
        raise CheckpointError(f"{path} is missing, so nothing says what the weights are; {AGAIN}, or copy the folder again")
    raw = path.read_bytes()
    body = raw[_SEALED:]
    if raw[:_SEALED] != _SEAL % hashlib.sha256(body).hexdigest().encode():
        raise CheckpointError(f"{path} is damaged: its bytes do not give its checksum; {AGAIN}, or copy the folder again")
    try:
        known = msgspec.json.decode(b"{" + body, type=_Head)
        if known.format != FORMAT or known.version != VERSION:
            raise CheckpointError(
                f"{path} is {known.format} version {known.version}; this Brigade reads {FORMAT} version {VERSION}: {AGAIN}"
            )
        return msgspec.json.decode(b"{" + body, type=Manifest)
    except msgspec.MsgspecError as error:
        raise CheckpointError(f"{path} does not describe an artifact ({error}); {AGAIN}") from error


@dataclass(frozen=True)
class _Head:
    """What every version has."""

    format: str
    version: int
