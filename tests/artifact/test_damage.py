"""An artifact that is not whole does not load: every byte counts, and an interruption leaves nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from brigade.backends.cpu.library import find_kernels

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

from brigade.artifact.manifest import Manifest, Span, encode, read_manifest
from brigade.checkpoint.load import open_model
from brigade.errors import UserError
from tests.artifact.builders import export, llm_of


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export("mini", tmp_path_factory.mktemp("whole") / "a", "--quant", "int8")


def flipped(folder: Path, file: str, at: int) -> None:
    with (folder / file).open("r+b") as handle:
        handle.seek(at)
        byte = handle.read(1)[0]
        handle.seek(at)
        handle.write(bytes([byte ^ (1 << at % 8)]))


def places(whole: Path) -> list[tuple[str, int]]:
    """The manifest from end to end; of each kind of array its first and last byte, and the filling between; every small file."""
    found = []
    for file in ("manifest.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"):
        size = (whole / file).stat().st_size
        found += [(file, at) for at in {0, 5, 12, 75, 76, 77, 80, size // 3, size // 2, size - 2, size - 1} if at < size]
    manifest = read_manifest(whole)
    for matrix in manifest.matrices[::9]:
        for span in matrix.arrays.values():
            found += [(span.file, span.offset), (span.file, span.offset + span.bytes - 1)]
    for tensor in manifest.tensors[::5]:
        found += [(tensor.span.file, tensor.span.offset), (tensor.span.file, tensor.span.offset + tensor.span.bytes)]
    size = (whole / "weights-00000.packed").stat().st_size
    return found + [("weights-00000.packed", size - 1), ("weights-00000.packed", size * 2 // 3)]


def test_a_flipped_bit_anywhere_is_found(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    for file, at in places(whole):
        flipped(folder, file, at)
        with pytest.raises(UserError) as refused:
            open_model(folder).artifact.read().prove()
        assert file in str(refused.value) and "\n" not in str(refused.value), (file, at)
        flipped(folder, file, at)
    open_model(folder).artifact.read().prove()  # mended, it is whole


def remove(file: str):
    return lambda folder: (folder / file).unlink()


def shorten(folder: Path) -> None:
    file = folder / "weights-00000.packed"
    file.write_bytes(file.read_bytes()[:-4096])


CASES = {
    "no weights": (remove("weights-00000.packed"), "weights-00000.packed is missing"),
    "truncated weights": (shorten, "weights-00000.packed is truncated"),
    "no tokenizer": (remove("tokenizer.json"), "tokenizer.json is missing"),
    "no manifest": (remove("manifest.json"), "manifest.json is missing"),
    "empty manifest": (lambda f: (f / "manifest.json").write_text(""), "manifest.json is damaged"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_whole_is_refused_in_one_line(case: str, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "copy")
    damage, words = CASES[case]
    damage(tmp_path / "copy")
    with pytest.raises(UserError) as refused:
        llm_of(tmp_path / "copy")
    assert words in str(refused.value) and "\n" not in str(refused.value)


def lying(entry, **changes):
    """A copy that its own checks have not seen."""
    made = replace(entry)
    for name, value in changes.items():
        object.__setattr__(made, name, value)
    return made


def first(manifest: Manifest, **changes) -> Manifest:
    return replace(manifest, matrices=(lying(manifest.matrices[0], **changes), *manifest.matrices[1:]))


def other_place(manifest: Manifest) -> Manifest:
    return first(manifest, arrays={name: replace(span, offset=1 << 40) for name, span in manifest.matrices[0].arrays.items()})


def no_digits(span: Span) -> Span:
    return lying(span, sums="z" * len(span.sums))


def doubled(span: Span) -> Span:
    return replace(span, rows=2 * span.rows, step=2 * span.step)


def other_pieces(manifest: Manifest, change) -> Manifest:
    """Of the first matrix's numbers."""
    arrays = manifest.matrices[0].arrays
    return first(manifest, arrays=arrays | {"data": change(arrays["data"])})


# Manifests whose seal is right: of another version or machine, or made by somebody who wants to be read past the end.
SEALED = {
    "another version": (lambda m: replace(m, version=9), "version 9; this Brigade reads"),
    "another packed format": (lambda m: replace(m, packed_format=9), "packed in format 9"),
    "another tree": (lambda m: replace(m, reduction_width=16), "trees of 16 blocks"),
    "other numerics": (lambda m: replace(m, numerics_id="cpu-0/bf16-amx/G8/int8"), "was exported for cpu-0"),
    "a matrix less": (lambda m: replace(m, matrices=m.matrices[1:]), "has no matrix"),
    "a matrix more": (lambda m: replace(m, matrices=(*m.matrices, replace(m.matrices[0], name="x"))), "does not have"),
    "a tensor less": (lambda m: replace(m, tensors=m.tensors[1:]), "other tensors than"),
    "a wider matrix": (lambda m: first(m, shape=(4096, 4096)), "another length"),
    "checksums of no digits": (
        lambda m: other_pieces(m, lambda span: lying(span, sums="z" * len(span.sums))),
        "no hexadecimal digits",
    ),
    "more blocks than there are": (lambda m: first(m, blocks=2), "in 2 blocks of"),
    "checksums of other rows": (
        lambda m: other_pieces(m, lambda span: replace(span, rows=2 * span.rows, step=2 * span.step)),
        "proves",
    ),
    "a negative matrix": (lambda m: first(m, shape=(-1, 8)), "does not describe"),
    "not the architecture's": (lambda m: replace(m, config=replace(m.config, ffn_size=640)), "architecture needs Layout"),
    "an impossible architecture": (lambda m: replace(m, config=replace(m.config, num_layers=8)), "other tensors than"),
    "a place outside": (other_place, "where there is none"),
    "a file outside": (lambda m: replace(m, files=(lying(m.files[0], name="../../etc/passwd"), *m.files[1:])), "does not describe"),
}


@pytest.mark.parametrize("case", SEALED)
def test_a_manifest_that_does_not_fit_is_refused_in_one_line(case: str, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "copy")
    change, words = SEALED[case]
    changed = change(read_manifest(whole))
    (tmp_path / "copy" / "manifest.json").write_bytes(encode(changed))
    with pytest.raises(UserError) as refused:
        llm_of(tmp_path / "copy")
    assert words in str(refused.value) and "\n" not in str(refused.value)


# Kills its own process, without any cleaning up, at the N-th call that writes or moves something.
KILLED = """
import os, signal, sys
left = int(sys.argv[1])
def counted(call):
    def wrapped(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)
    return wrapped
os.fsync, os.rename = counted(os.fsync), counted(os.rename)
from brigade.artifact import writer
from brigade.cli.main import main
writer._Weights.add = counted(writer._Weights.add)
writer.shutil.copyfile = counted(writer.shutil.copyfile)
sys.exit(main(["export", "mini", sys.argv[2], "--quant", "int8"]))
"""
KILLS = {"first array": 1, "halfway through the arrays": 24, "weights written": 46, "between small files": 50, "last moment": 57}


SELDOM = ("first array", "weights written", "between small files")


@pytest.mark.parametrize("moment", [pytest.param(name, marks=[pytest.mark.slow] * (name in SELDOM)) for name in KILLS])
def test_killed_at_any_moment_nothing_is_left_that_loads(moment: str, tmp_path: Path) -> None:
    out = tmp_path / "a"
    done = subprocess.run([sys.executable, "-c", KILLED, str(KILLS[moment]), str(out)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not out.exists()
    for left in tmp_path.iterdir():
        with pytest.raises(UserError, match="interrupted export"):
            open_model(left)
    assert read_manifest(export("mini", out)).quant == "none"  # and the place is free


def test_an_export_that_fails_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    from brigade.cli.main import main

    assert main(["export", "mini", str(tmp_path / "a")]) == 2
    assert list(tmp_path.iterdir()) == []
    assert "No space left on device; make room, or choose another place" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["chat_template.jinja", "special_tokens_map.json"])
def test_a_file_that_was_put_in_later_is_refused(name: str, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "a")
    (tmp_path / "a" / name).write_text("{}")
    with pytest.raises(UserError, match=f"{name} is none of the artifact's files; remove it"):
        open_model(tmp_path / "a")
