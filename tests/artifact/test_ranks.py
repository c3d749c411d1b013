"""What a rank takes of an artifact: its own runs, mapped where they lie and proven, and nothing else."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from brigade.backends.cpu.library import find_kernels

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

from brigade.artifact.checksum import pieces_of
from brigade.artifact.manifest import Manifest, Span, encode, read_manifest
from brigade.artifact.reader import Artifact, MappedModel
from brigade.artifact.writer import Facts, write_artifact
from brigade.backends.cpu.matrix import Panels
from brigade.backends.cpu.packer import plain_tensors
from brigade.backends.registry import get_backend
from brigade.checkpoint.load import fill, open_model
from brigade.config import ModelConfig, RopeConfig
from brigade.errors import CheckpointError
from brigade.mesh import Part
from brigade.model.gpt_model import GPTModel, empty_model
from tests.backends.cpu.ranks import Meeting, ThreadExchange, random_weights
from tests.backends.cpu.test_cut import same_bytes

# Borders of all cuts lie on panels, for up to 8 ranks; with heads 16 wide none of attention's do.
CONFIG = ModelConfig(
    "ranks", vocab_size=640, num_layers=2, hidden_size=128, num_heads=8, num_kv_heads=2, head_dim=32, ffn_size=256,
    max_positions=64, rope=RopeConfig(rotary_dim=32), qkv_bias=True, out_bias=True, tied_head=False,
)  # fmt: skip
SCHEMES = ("none", "int8", "int8-weight", "int4", "int4-int8")


def backend_of(scheme: str):
    backend = get_backend("cpu")
    if scheme != "none":
        backend.quantise(scheme)
    backend.hold(torch.bfloat16)
    return backend


def write(out: Path, scheme: str, config: ModelConfig = CONFIG) -> Path:
    backend = backend_of(scheme)
    model = empty_model(config, backend)
    backend.prepare(model, random_weights(config, torch.bfloat16))
    write_artifact(out, model.packed, Facts("m", config, "bfloat16", scheme, (), backend.numerics_id), None)
    return out


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory):
    made: dict[str, Path] = {}

    def get(scheme: str) -> Path:
        if scheme not in made:
            made[scheme] = write(tmp_path_factory.mktemp(scheme) / "a", scheme)
        return made[scheme]

    return get


def rank_of(folder: Path, rank: int, size: int, stages: int = 1) -> GPTModel:
    """What a rank of the last stage loads."""
    manifest = read_manifest(folder)
    backend, layers = backend_of(manifest.quant), manifest.config.num_layers
    if size > 1:
        backend.exchange = ThreadExchange(rank, Meeting(size))
    part = Part(layers * (stages - 1) // stages, layers, layers, size, rank)
    return fill(empty_model(manifest.config, backend, held=part), open_model(folder), torch.bfloat16)


def in_map(address: int, folder_maps: list[tuple[int, int]]) -> bool:
    return any(start <= address < start + size for start, size in folder_maps)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_rank_uses_its_panels_where_they_lie(scheme: str, artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Artifact] = []
    real = Artifact.open
    monkeypatch.setattr(Artifact, "open", lambda folder: opened.append(real(folder)) or opened[-1])
    for rank, size in ((0, 2), (3, 4), (5, 8)):
        model = rank_of(artifacts(scheme), rank, size)
        maps = opened[-1].maps
        places = [(np.frombuffer(maps[entry.name], np.uint8).ctypes.data, entry.bytes) for entry in opened[-1].weight_files]
        for name, matrix in model.packed.matrices.items():
            data, scale = matrix.arrays[:2]
            assert isinstance(data, Panels) and all(in_map(run.ctypes.data, places) for run in data.runs), name
            assert scale is None or matrix.scheme != "int4" or all(in_map(run.ctypes.data, places) for run in scale.runs), name
            assert matrix.struct.data % 64 == 0
        assert all(in_map(tensor.data_ptr(), places) for tensor in plain_tensors(model).values())


@pytest.mark.parametrize("head_dim", [32, 16])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_holds_what_it_would_have_packed(scheme: str, head_dim: int, tmp_path: Path) -> None:
    """Mapped, or of heads that end inside a panel put together anew: the bytes of the same cut of the whole."""
    config = replace(CONFIG, head_dim=head_dim, rope=RopeConfig(rotary_dim=head_dim))
    folder, (rank, size) = write(tmp_path / "a", scheme, config), (1, 2)
    own = rank_of(folder, rank, size)
    backend = backend_of("none" if scheme == "none" else scheme)
    backend.exchange = ThreadExchange(rank, Meeting(size))
    copied = empty_model(config, backend, held=Part(0, 2, 2, size, rank))
    whole = Artifact.open(folder).read()
    from brigade.backends.cpu.cut import cut_matrix
    from brigade.backends.cpu.packer import cut_of

    for name, matrix in own.packed.matrices.items():
        cut = cut_of(copied.cuts, name)
        assert same_bytes(matrix, cut_matrix(whole.matrices[name], cut)), name
        mapped = isinstance(matrix.arrays[0], Panels)
        assert mapped == (head_dim == 32 or not name.endswith("qkv")), name
    assert any("attention.qkv" in name for name in backend.cut_inside_panels(copied)) == (head_dim == 16)  # as `inspect` says


def anonymous_bytes() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) << 10


def test_a_ranks_own_memory_stays_small(tmp_path: Path) -> None:
    """15 MB of weights, of which it copies next to nothing."""
    config = replace(CONFIG, hidden_size=1024, num_heads=8, head_dim=128, ffn_size=4096, rope=RopeConfig(rotary_dim=128))
    folder = write(tmp_path / "a", "int8", config)
    gc.collect()
    before = anonymous_bytes()
    model = rank_of(folder, 1, 2)
    held = sum(matrix.nbytes for matrix in model.packed.matrices.values())
    assert held > 15e6 and anonymous_bytes() - before < held // 8


def flip(folder: Path, file: str, at: int) -> None:
    with (folder / file).open("r+b") as handle:
        handle.seek(at)
        byte = handle.read(1)[0]
        handle.seek(at)
        handle.write(bytes([byte ^ 1 << at % 8]))


def spans_of(manifest: Manifest) -> Iterator[tuple[str, str, Span]]:
    for tensor in manifest.tensors:
        yield tensor.name, "tensor", tensor.span
    for matrix in manifest.matrices:
        for kind, span in matrix.arrays.items():
            yield matrix.name, kind, span


# Of two ranks, which bytes of an array the first one uses, as [panels or rows, blocks, bytes].
def first_half(rows: int, name: str, kind: str, blocks: int) -> np.ndarray:
    used = np.zeros((rows, blocks), bool)
    if name.endswith(("out", "down")):
        along_k = blocks > 1
        used[:, : blocks // 2 if along_k else None] = kind != "colsum"
    elif name.endswith("qkv"):  # 8 panels of queries, 2 of keys, 2 of values
        used[[0, 1, 2, 3, 8, 10]] = True
    else:
        used[: max(rows // 2, 1)] = True  # of a norm all
    return used


@pytest.mark.parametrize("scheme", ["none", "int8", "int4"])
def test_damage_counts_where_a_rank_takes_it(scheme: str, artifacts, tmp_path: Path) -> None:
    """The first rank of two refuses a bad byte of its own runs, with the place, and does not see one of the other's."""
    folder = tmp_path / "a"
    shutil.copytree(artifacts(scheme), folder)
    good = {name: matrix.unpack() for name, matrix in rank_of(folder, 0, 2).packed.matrices.items()}
    generator, kinds = np.random.default_rng(0), set()
    for name, kind, span in spans_of(read_manifest(folder)):
        if name.startswith("layers.0.") or (kind == "tensor" and name != "embedding.word"):
            continue
        used = first_half(span.rows, name, kind, span.blocks)
        for wanted in (True, False):
            places = np.argwhere(used == wanted)
            if not places.size:
                continue
            row, block = places[generator.integers(len(places))]
            each = span.bytes // span.rows // span.blocks
            at = int(span.offset + (row * span.blocks + block) * each + generator.integers(each))
            flip(folder, span.file, at)
            kinds.add((kind, wanted))
            if wanted:
                with pytest.raises(CheckpointError) as refused:
                    rank_of(folder, 0, 2)
                first, last = (int(word) for word in str(refused.value).split("bytes ")[1].split(" do not")[0].split(" to "))
                assert span.file in str(refused.value) and first <= at <= last, (name, kind)
            else:
                found = rank_of(folder, 0, 2).packed.matrices
                assert all(torch.equal(found[key].unpack(), value) for key, value in good.items()), (name, kind)
            with pytest.raises(CheckpointError, match="is damaged: bytes"):  # one rank takes it all
                rank_of(folder, 0, 1)
            flip(folder, span.file, at)
    assert {("data", True), ("data", False), ("tensor", True), ("tensor", False)} <= kinds
    assert scheme == "none" or {("scale", True), ("scale", False)} <= kinds


def test_a_stage_proves_its_layers_alone(artifacts, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    shutil.copytree(artifacts("int8"), folder)
    spans = {name: span for name, kind, span in spans_of(read_manifest(folder)) if kind == "data"}
    flip(folder, spans["layers.0.mlp.up"].file, spans["layers.0.mlp.up"].offset + 77)
    rank_of(folder, 0, 1, stages=2)
    flip(folder, spans["layers.1.mlp.up"].file, spans["layers.1.mlp.up"].offset + 77)
    with pytest.raises(CheckpointError, match="is damaged"):
        rank_of(folder, 0, 1, stages=2)


def test_filling_between_arrays_is_proven_by_one_rank(artifacts, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    shutil.copytree(artifacts("int8"), folder)
    manifest = read_manifest(folder)
    ends = {span.offset + span.bytes for span in manifest.spans} - {span.offset for span in manifest.spans}
    flip(folder, "weights-00000.packed", min(ends))
    rank_of(folder, 0, 2)
    with pytest.raises(CheckpointError, match=f"bytes {min(ends)} to"):
        rank_of(folder, 0, 1)


def test_progress_counts_what_is_proven(artifacts) -> None:
    manifest, seen = read_manifest(artifacts("int8")), []
    ready = Artifact.open(artifacts("int8")).read(lambda done, total: seen.append((done, total)))
    assert isinstance(ready, MappedModel) and seen == []
    ready.prove()
    whole = sum(span.bytes for span in manifest.spans)
    assert seen[-1] == (whole, whole) and len(seen) == sum(len(list(pieces_of(span))) for span in manifest.spans)


def test_an_artifact_of_the_first_version_is_refused_with_the_remedy(artifacts, tmp_path: Path) -> None:
    shutil.copytree(artifacts("none"), tmp_path / "a")
    (tmp_path / "a" / "manifest.json").write_bytes(encode(replace(read_manifest(tmp_path / "a"), version=1)))
    with pytest.raises(CheckpointError, match="version 1; this Brigade reads brigade-artifact version 2: export the model again"):
        open_model(tmp_path / "a")
