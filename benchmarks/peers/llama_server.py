"""`llama-server`, llama.cpp's own HTTP server, compiled from the source that the installed llama-cpp-python was compiled from.

No wheel of PyPI has the program for this processor: llama-cpp-python installs the libraries alone, and its own server module
answers one request at a time. Its source package holds all of llama.cpp, so `cmake` makes the program from it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from pathlib import Path

from benchmarks.peers.environment import NotPossible, logged

PACKAGE = "llama-cpp-python"
# For this processor, as the library is; without what the program does not need here, some of which would be downloaded.
OPTIONS = (
    "CMAKE_BUILD_TYPE=Release", "GGML_NATIVE=on", "LLAMA_OPENSSL=OFF", "LLAMA_BUILD_TESTS=OFF", "LLAMA_BUILD_EXAMPLES=OFF",
    "LLAMA_BUILD_APP=OFF", "LLAMA_BUILD_UI=OFF", "LLAMA_USE_PREBUILT_UI=OFF",
)  # fmt: skip


def llama_server(python: Path, folder: Path) -> Path:
    """The program. `python`: of the environment that has the package. What an interruption leaves is continued."""
    marker, program, log = folder / "built.json", folder / "build" / "bin" / "llama-server", folder / "build.log"
    wanted = {"version": _version(python), "options": list(OPTIONS)}
    built = json.loads(marker.read_text(encoding="utf-8")) if marker.exists() else None
    if built == wanted and program.exists():
        return program
    if built is not None:
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    if shutil.which("cmake") is None:
        raise NotPossible("llama-server is compiled here, which needs cmake; install it")
    try:
        _build(_source(python, folder, wanted["version"], log), folder / "build", log)
    except NotPossible as error:
        raise NotPossible(f"llama-server cannot be compiled: {error}") from None
    marker.write_text(json.dumps(wanted), encoding="utf-8")
    return program


def _version(python: Path) -> str:
    asked = f"from importlib.metadata import version; print(version({PACKAGE!r}))"
    return subprocess.run([str(python), "-c", asked], check=True, capture_output=True, text=True).stdout.strip()


def _source(python: Path, folder: Path, version: str, log: Path) -> Path:
    """The folder of llama.cpp in the package's source."""
    pip = [str(python), "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--no-binary", PACKAGE]
    logged([*pip, "--dest", str(folder), f"{PACKAGE}=={version}"], log)
    packed = next(folder.glob("llama_cpp_python-*.tar.gz"))
    with tarfile.open(packed) as archive:
        archive.extractall(folder / "source", filter="data")
    packed.unlink()
    return folder / "source" / packed.name.removesuffix(".tar.gz") / "vendor" / "llama.cpp"


def _build(source: Path, build: Path, log: Path) -> None:
    tool = [] if shutil.which("ninja") is None else ["-G", "Ninja"]
    logged(["cmake", *tool, "-S", str(source), "-B", str(build), *(f"-D{option}" for option in OPTIONS)], log)
    logged(["cmake", "--build", str(build), "--target", "llama-server", "--parallel"], log)
