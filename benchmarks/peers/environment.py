"""One virtual environment a peer: made once, reused as long as what it should hold stays the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.peers.catalogue import Peer
from benchmarks.peers.worker import last_line


class NotPossible(Exception):
    """This peer cannot be measured here; the text says why, in one line."""


def environment(peer: Peer, folder: Path) -> Path:
    """The peer's interpreter, with its packages installed."""
    python, marker = folder / "env" / "bin" / "python", folder / "installed.json"
    wanted = {"packages": list(peer.packages), "without": list(peer.without), "build": dict(peer.build)}
    if python.exists() and marker.exists() and json.loads(marker.read_text(encoding="utf-8")) == wanted:
        return python
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "install.log"
    log.write_bytes(b"")
    marker.unlink(missing_ok=True)
    logged([sys.executable, "-m", "venv", "--clear", str(folder / "env")], log)
    try:
        _install(peer, python, log)
    except NotPossible as error:
        raise NotPossible(f"not installable: {_reason(log) or error}") from None
    marker.write_text(json.dumps(wanted), encoding="utf-8")
    return python


def _install(peer: Peer, python: Path, log: Path) -> None:
    pip = [str(python), "-m", "pip"]
    logged([*pip, "install", "--disable-pip-version-check", *peer.packages], log, peer.build)
    if peer.without:
        logged([*pip, "uninstall", "--disable-pip-version-check", "--yes", *peer.without], log)


def _reason(log: Path) -> str:
    """pip's own word for it, which is seldom the last."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line.strip() for line in lines if line.lstrip().startswith("ERROR:")]
    return said[0].removeprefix("ERROR:").strip()[:200] if said else last_line(log)


def logged(command: list[str], log: Path, extra: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
    """Run to the end; its words go to the log, and its last ones into the reason where it fails."""
    variables = os.environ | dict(extra or {})
    with log.open("ab") as out:
        code = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, env=variables, cwd=cwd).returncode
    if code:
        raise NotPossible(last_line(log) or f"{command[0]} ended with code {code}")
