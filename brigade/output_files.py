"""Files that a command writes: refused before the work where they cannot be written, and there whole or not at all after it.

A file is written under another name beside its place, brought to the disk, and renamed: a reader sees the old content or the new,
never a part. A link's target is replaced and not the link, and a file keeps its permissions. Devices and pipes are written to
directly, since nothing can take their place.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from brigade.errors import ConfigError

PART = ".brigade-part-"  # how the name of a file under way begins
OPEN_FILES = re.compile(r"/dev/(fd/|std(in|out|err)$)|/proc/[^/]+/(task/[^/]+/)?fd/")
Identity = tuple[int, int] | str


def check_outputs(outputs: Mapping[str, Path | None], reads: Iterable[str | Path | None] = ()) -> None:
    """Call it before the work. `outputs`: each option with its file; `reads`: files that the command reads, and folders of which it
    reads every file. None stands for what was not given. An existing file keeps its content until there is something to write."""
    given = {option: path for option, path in outputs.items() if path is not None}
    for path in given.values():
        _check_place(path)
    check_apart(given, reads)


def check_apart(outputs: Mapping[str, Path], reads: Iterable[str | Path | None]) -> None:
    """No output is one of the inputs, lies in a folder of inputs, or is another output, under whatever name."""
    known: dict[Identity, str] = {}
    folders: dict[Identity, Path] = {}
    for each in reads:
        if each is None:
            continue
        read = Path(each)
        known |= dict.fromkeys(_identities(read), f"{read}, which is read")
        if read.is_dir():
            folders |= dict.fromkeys(_identities(read), read)
            for file in read.iterdir():
                known |= dict.fromkeys(_identities(file), f"{file}, which is read")
    for option, path in outputs.items():
        if is_stream(path):
            continue
        own = _identities(path)
        same = next((known[name] for name in own if name in known), None)
        if same is not None:
            raise ConfigError(f"{option} {path} is the same file as {same}; choose another place")
        inside = next((folders[name] for name in _identities(_target(path).parent) if name in folders), None)
        if inside is not None:
            raise ConfigError(f"{option} {path} lies in {inside}, a folder that is read; choose another place")
        known |= dict.fromkeys(own, f"{path}, which {option} writes")


def write_json(path: Path, content: Any) -> None:
    write_file(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_file(path: Path, text: str) -> None:
    """What UTF-8 cannot hold, half of a surrogate pair, is written as JSON escapes it."""
    data = text.encode("utf-8", "backslashreplace")
    try:
        if is_stream(path):
            _send(path, data)
        else:
            _replace(_target(path), data)
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"cannot write {path}: {error.strerror or error}; make room, or choose another place")


def is_stream(path: Path) -> bool:
    """A device, a pipe or a socket."""
    try:
        mode = path.stat().st_mode
    except (OSError, RuntimeError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _check_place(path: Path) -> None:
    try:
        if is_stream(path):
            if not os.access(path, os.W_OK):
                raise PermissionError(0, "it may not be written")
            return
        if OPEN_FILES.match(str(path.absolute())):
            raise ConfigError(f"cannot write {path}: it is a file that is open already; give the file by its own name")
        if path.is_dir():
            raise ConfigError(f"cannot write {path}: it is a folder; choose a file")
        with suppress(FileNotFoundError):
            path.stat()
            if not os.access(path, os.W_OK):
                raise PermissionError(0, "it may not be written")
        # Nothing proves that a folder takes a file but a file in it.
        part = _part(_target(path))
        try:
            os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        finally:
            with suppress(OSError):
                part.unlink()
    except OSError as error:
        remedy = "choose a file in a folder that exists and is writable"
        raise ConfigError(f"cannot write {path}: {error.strerror or error}; {remedy}") from error


def _target(path: Path) -> Path:
    """The file itself, through all links."""
    return Path(os.path.realpath(path))


def _part(target: Path) -> Path:
    return target.with_name(f"{PART}{secrets.token_hex(8)}")


def _identities(path: Path) -> list[Identity]:
    """The path without links, and the file's own number, which hard links share."""
    names: list[Identity] = [os.path.realpath(path)]
    with suppress(OSError):
        found = path.stat()
        names.append((found.st_dev, found.st_ino))
    return names


def _send(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK)  # a pipe that nobody reads is an error, and no endless wait
    with open(handle, "wb") as file:
        os.set_blocking(handle, True)
        file.write(data)


def _replace(target: Path, data: bytes) -> None:
    part = _part(target)
    try:
        before = target.stat()
    except FileNotFoundError:
        before = None
    try:
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if before is None else 0o600)
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            if before is not None:
                with suppress(PermissionError):
                    os.fchown(handle, before.st_uid, before.st_gid)
                os.fchmod(handle, stat.S_IMODE(before.st_mode))
            os.fsync(handle)
        os.replace(part, target)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    with suppress(OSError):  # the file is whole by now; some file systems bring no folder to the disk
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
