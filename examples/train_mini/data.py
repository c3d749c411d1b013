"""The training text: the sources of CPython's standard library, which every machine with Python has.

Files go to the held-out set by a hash of their name, so the split needs no list and no seed.
"""

from __future__ import annotations

import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path

SKIPPED = {"site-packages", "dist-packages", "__pycache__", "lib2to3"}
HELD_OUT_OF = 32  # one file in so many is held out


@dataclass(frozen=True)
class SourceFile:
    name: str  # relative to the library, with forward slashes
    text: str


def is_held_out(name: str) -> bool:
    return hashlib.sha256(name.encode()).digest()[0] % HELD_OUT_OF == 0


def read_sources(root: Path | None = None) -> tuple[list[SourceFile], list[SourceFile]]:
    """Training and held-out files, each sorted by name; files that are not UTF-8 or repeat another are left out."""
    root = root or Path(sysconfig.get_paths()["stdlib"])
    train, held_out, seen = [], [], set()
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if SKIPPED & set(relative.parts):
            continue
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            continue
        digest = hashlib.sha256(text.encode()).digest()
        if not text.strip() or digest in seen:
            continue
        seen.add(digest)
        name = relative.as_posix()
        (held_out if is_held_out(name) else train).append(SourceFile(name, text))
    return train, held_out


def fingerprint(files: list[SourceFile]) -> str:
    """One hash of all names and contents, for the record."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.text.encode() + b"\0")
    return digest.hexdigest()[:16]
