"""Which model it is, in one word: its architecture, its dtype and quantization, and its weights as they lie in their files."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from brigade.artifact.manifest import NAME
from brigade.checkpoint.safetensors_folder import SafetensorsFolder

LENGTH = 32  # hexadecimal digits
CHUNK = 4 << 20


def fingerprint(llm: Any) -> str:
    """The same for one model on any layout, backend and machine. It reads files, and knows nothing of weights in memory."""
    source, backend = llm.source, llm.backend
    facts = {
        "config": dataclasses.asdict(llm.config), "dtype": str(llm.dtype).removeprefix("torch."),
        "quant": backend.quant.label if backend.quantises else "none",
    }  # fmt: skip
    if source.artifact is not None:  # its manifest seals the checksums of every file
        facts["weights"] = _file_digest(source.path / NAME)
    elif source.path is None:
        facts["weights"] = f"random {llm.blueprint.random_weights}"
    else:
        files = sorted({entry.file for entry in SafetensorsFolder(source.path).entries.values()})
        facts["weights"] = [_file_digest(file) for file in files]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:LENGTH]


def _file_digest(path: Path) -> str:
    found = path.stat()
    return _read_digest(path, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _read_digest(path: Path, size: int, changed: int) -> str:
    """`size` and `changed` tell a file that was written since."""
    whole = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            whole.update(chunk)
    return whole.hexdigest()
