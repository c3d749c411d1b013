"""What a variant loads: the folder that its peer's converter leaves, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.peers.catalogue import Peer, Variant
from benchmarks.peers.environment import NotPossible, logged

ROOT = Path(__file__).resolve().parents[2]


def converted(peer: Peer, variant: Variant, python: Path, checkpoint: Path, folder: Path) -> Path:
    """A folder that is there is whole: it gets its name last."""
    if not variant.model:
        return checkpoint
    out = folder / f"{checkpoint.name}-{variant.model}"
    if out.exists():
        return out
    part, log = out.with_name(out.name + ".part"), out.with_name(out.name + ".log")
    shutil.rmtree(part, ignore_errors=True)
    log.unlink(missing_ok=True)
    module = f"benchmarks.peers.converters.{peer.module}"
    try:
        logged([str(python), "-m", module, str(checkpoint), str(part), variant.model], log, peer.run, ROOT)
        part.rename(out)
    except NotPossible as error:
        raise NotPossible(f"not convertible: {error}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)  # what a failure or an interruption leaves
    return out
