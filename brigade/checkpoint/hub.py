"""Models by name: `org/name` or `org/name@revision` of the Hugging Face hub, in the cache that all of its clients share.

What is read is fetched, and nothing else. A branch may move, so a name stands for one commit in all of a run: a process looks it up
once, and other processes of the run (ranks, replicas) are given `Snapshot.pinned`, the name with its commit. A commit whose files
are all in the cache is opened without a request; so the cache also says which files a commit does not have, as the client library
itself says it (`.no_exist`).

The client library is imported where the hub has to be asked, and not before: everything else starts without it.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brigade.checkpoint.hub_errors import may_pass, refusal
from brigade.errors import CheckpointError, in_one_line

MAIN = "main"
CONFIG, INDEX, SINGLE = "config.json", "model.safetensors.index.json", "model.safetensors"
SETTINGS = (CONFIG, "generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
# A file, and what is read only where it is not there.
OUTDOING = (
    ("tokenizer.json", ("vocab.json", "merges.txt", "added_tokens.json")),
    ("chat_template.jinja", ("chat_template.json",)),
)  # fmt: skip
TRIES = 3  # of a download that breaks off, after those that the library makes by itself
UNDER_WAY = 60.0  # seconds: a part of a file that was written to since then is being fetched by somebody, who will finish it
TRUE = ("1", "ON", "YES", "TRUE")  # as the library reads its switches

_NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(.*))?", re.ASCII | re.DOTALL)
_REVISION = re.compile(r"\w[\w./+-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubName:
    """`org/name`, and which revision of it: a branch, a tag or a commit."""

    repo: str
    revision: str = MAIN

    @classmethod
    def read(cls, text: object) -> HubName | None:
        """None for what is no name of the hub: a path that exists, whatever it looks like, or the path of a recipe."""
        if not isinstance(text, str) or text.endswith((".yaml", ".yml")) or os.path.exists(text):
            return None
        found = _NAME.fullmatch(text)
        if found is None:
            return None
        repo, revision = found.groups()
        if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
            raise CheckpointError(f"{text!r} names no revision behind @; write a branch, a tag or a commit, such as {repo}@main")
        return cls(repo, MAIN if revision is None else revision)


@dataclass(frozen=True)
class Hub:
    """The hub and its cache, as the environment names them now."""

    endpoint: str
    cache: Path
    is_offline: bool

    @classmethod
    def found(cls) -> Hub:
        given = os.environ
        home = given.get("HF_HOME") or os.path.join(given.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
        cache = given.get("HF_HUB_CACHE") or given.get("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub")
        offline = given.get("HF_HUB_OFFLINE") or given.get("TRANSFORMERS_OFFLINE") or ""
        endpoint = given.get("HF_ENDPOINT") or "https://huggingface.co"
        return cls(endpoint.rstrip("/"), Path(os.path.expandvars(os.path.expanduser(cache))), offline.upper() in TRUE)

    def folder(self, repo: str) -> Path:
        """Of all that the cache has of a model."""
        return self.cache / f"models--{repo.replace('/', '--')}"

    def cached_commit(self, name: HubName) -> str | None:
        """Where a branch or a tag was when it was looked up last."""
        try:
            commit = (self.folder(name.repo) / "refs" / name.revision).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
        return commit if _COMMIT.fullmatch(commit) else None


@dataclass(frozen=True)
class Listing:
    """What the hub has at one commit: files, and their sizes where it tells them. `blobs`: how the cache calls what is in them, so
    that equal files of several commits are there once."""

    commit: str
    files: Mapping[str, int | None]
    blobs: Mapping[str, str | None]


_lock = threading.RLock()
_commits: dict[tuple[Hub, HubName], tuple[str, float | None]] = {}
_listings: dict[tuple[Hub, str, str], Listing] = {}  # by model and commit


@dataclass(frozen=True)
class Snapshot:
    """One commit of a model, in the cache: what is small is there when it is opened, and the weights after `fetch_weights`."""

    hub: Hub
    name: HubName  # as it was asked for
    commit: str
    asked: float | None  # when the hub was asked where the name is; None where it was not

    @property
    def folder(self) -> Path:
        return self.hub.folder(self.name.repo) / "snapshots" / self.commit

    @property
    def pinned(self) -> str:
        """What another process opens to have the same."""
        return f"{self.name.repo}@{self.commit}"

    def fetch_settings(self) -> None:
        """Configuration, tokenizer and chat template, where the cache does not have them yet."""
        if all(self._knows(file) for file in _small(self._has)):
            return
        listing = self._listing()
        if listing is None:
            if not self._has(CONFIG):
                raise self._not_cached(CONFIG)
            return  # other clients fill the cache too, without a word on what a model does not have
        if CONFIG not in listing.files:
            raise CheckpointError(f"{self._shown} has no {CONFIG}, {_instead(listing)}")
        wanted = _small(listing.files.__contains__)
        self._fetch_all("settings and tokenizer", [file for file in wanted if file in listing.files], listing, bars=False)
        self._mark_absent(file for file in wanted if file not in listing.files)
        if self.hub.cached_commit(self.name) is None:
            self._write_ref()

    def fetch_weights(self) -> None:
        """Does nothing where they are in the cache. Several processes may do this at once: each file is fetched by one of them."""
        if not self._has_weights():
            listing = self._listing()
            if listing is None:
                raise self._not_cached(SINGLE)
            self._fetch_all("weights", self._weight_files(listing), listing, bars=True)
        self._write_ref()  # only now, so that a branch which moved stands for weights that are here as long as the hub is away

    def _weight_files(self, listing: Listing) -> list[str]:
        from brigade.checkpoint.safetensors_folder import read_index

        if INDEX not in listing.files:
            self._mark_absent([INDEX])
            if SINGLE not in listing.files:
                raise CheckpointError(f"{self._shown} has neither {INDEX} nor {SINGLE}, {_instead(listing)}")
            return [SINGLE]
        self._fetch(INDEX, bars=False)
        files = sorted(set((read_index(self.folder) or {}).values()))
        missing = [file for file in files if file not in listing.files]
        if missing:
            raise CheckpointError(f"{self._shown} lacks {missing[0]}, which its {INDEX} names; take another revision of it")
        return files

    def _has_weights(self) -> bool:
        from brigade.checkpoint.safetensors_folder import read_index

        if self._has(INDEX):
            return all(self._has(file) for file in (read_index(self.folder) or {}).values())
        return self._has(SINGLE) and (self._knows(INDEX) or self._listing() is None)

    def _has(self, file: str) -> bool:
        return (self.folder / file).is_file()

    def _absent(self, file: str) -> Path:
        return self.hub.folder(self.name.repo) / ".no_exist" / self.commit / file

    def _knows(self, file: str) -> bool:
        return self._has(file) or self._absent(file).exists()

    def _mark_absent(self, files: Iterable[str]) -> None:
        """As the library does where it asks for such a file."""
        with suppress(OSError):  # a cache that may not be written serves as well, with a request at each opening
            for file in files:
                self._absent(file).parent.mkdir(parents=True, exist_ok=True)
                self._absent(file).touch()

    def _write_ref(self) -> None:
        """The file is as old as the hub's word that is in it. So a process that has asked earlier, and has the weights later, does
        not set a branch back; nor does one that has not asked."""
        if self.name.revision == self.commit or self.asked is None:
            return
        ref = self.hub.folder(self.name.repo) / "refs" / self.name.revision
        part = ref.with_name(f"{ref.name}.{secrets.token_hex(8)}.tmp")
        with suppress(OSError):
            ref.parent.mkdir(parents=True, exist_ok=True)
            if self.hub.cached_commit(self.name) is not None and ref.stat().st_mtime >= self.asked:
                return
            part.write_text(self.commit, encoding="utf-8")
            os.utime(part, (self.asked, self.asked))
            os.replace(part, ref)

    def _listing(self) -> Listing | None:
        """What there is at this commit, asked once in a process; None where the hub cannot be asked."""
        with _lock:
            key = self.hub, self.name.repo, self.commit
            if key not in _listings and not self.hub.is_offline:
                try:
                    _listings[key] = _ask(self.hub, HubName(self.name.repo, self.commit))
                except Unreachable:
                    return None
            return _listings.get(key)

    def _fetch_all(self, what: str, files: Sequence[str], listing: Listing, bars: bool) -> None:
        files = [file for file in files if not self._has(file)]
        if not files:
            return
        sizes = [self._left(file, listing) for file in files]
        known = [size for size in sizes if size is not None]
        size = size_of(sum(known)) if len(known) == len(sizes) else "of unknown size"
        self._check_room(sum(known))
        count = f"{len(files)} file{'s' * (len(files) > 1)}, {size}"
        if len(known) < len(sizes) or sum(known):  # else the cache has them of another commit
            print(f"brigade: fetching the {what} of {self._shown}: {count}, into {self.hub.cache}", file=sys.stderr, flush=True)
        for number, file in enumerate(files, 1):
            if bars and len(files) > 1 and not sys.stderr.isatty():  # where the library draws no bar
                print(f"brigade: fetching {file}, {number} of {len(files)}", file=sys.stderr, flush=True)
            self._fetch(file, bars)

    def _left(self, file: str, listing: Listing) -> int | None:
        """Bytes of a file that are still to come: none of one that the cache has of another commit, and only the rest of one that
        the library goes on with, or that another process is fetching, for which the library waits. A part that nobody goes on with
        counts for nothing."""
        size, blob = listing.files[file], listing.blobs.get(file)
        if size is None or blob is None:
            return size
        blobs, parts = self.hub.folder(self.name.repo) / "blobs", [0]
        if (blobs / blob).exists():
            return 0
        for part in blobs.glob(f"{blob}*.incomplete"):
            with suppress(OSError):  # it is whole meanwhile
                about = part.stat()
                if part.name == f"{blob}.incomplete" or time.time() - about.st_mtime < UNDER_WAY:
                    parts.append(about.st_size)
        return max(size - max(parts), 0)

    def _check_room(self, size: int) -> None:
        """Refused before hours of download."""
        at = next(folder for folder in (self.hub.cache, *self.hub.cache.absolute().parents) if folder.exists())
        free = shutil.disk_usage(at).free
        if size > free:
            raise CheckpointError(
                f"{self._shown} needs {size_of(size)} more on the disk of {self.hub.cache}, which has {size_of(free)} left; "
                "make room, or set HF_HOME to a folder on another disk"
            )

    def _fetch(self, file: str, bars: bool) -> None:
        """Of one process at a time: the library locks it."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils import tqdm

        class NoBar(tqdm):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **(kwargs | {"disable": True}))

        for left in reversed(range(TRIES)):
            try:
                hf_hub_download(
                    self.name.repo, file, revision=self.commit, cache_dir=self.hub.cache, endpoint=self.hub.endpoint,
                    tqdm_class=None if bars else NoBar,
                )  # fmt: skip
                return
            except Exception as error:
                if not left or not may_pass(error):
                    raise refusal(error, self.name.repo, self.commit, self.hub.endpoint, self.hub.cache) from error

    @property
    def _shown(self) -> str:
        """Where it was found, in messages."""
        return f"{self.name.repo} at {self.commit[:12]}"

    def _not_cached(self, file: str) -> CheckpointError:
        return _unreachable(self.hub, f"the cache {self.hub.cache} has no {file} of {self._shown}")


class Unreachable(Exception):
    """The hub gives no answer now; the cache may do."""


def open_snapshot(name: HubName) -> Snapshot:
    """Without its weights."""
    hub = Hub.found()
    with _lock:
        if (hub, name) not in _commits:
            _commits[hub, name] = _look_up(hub, name)
        snapshot = Snapshot(hub, name, *_commits[hub, name])
        snapshot.fetch_settings()
    return snapshot


def pinned(model: str | Path | None) -> str | None:
    """What stands for the same model in every process of this run, whenever one opens it. A folder that is named like a model of
    the hub is written as a path, so that it is nothing else where it does not exist."""
    name = HubName.read(model)
    if name is not None:
        return open_snapshot(name).pinned
    text = None if model is None else str(model)
    return text if text is None or not _NAME.fullmatch(text) else f"./{text}"


def cached_folders(model: str) -> list[Path]:
    """What is in the cache of a model of the hub, at all commits."""
    name = HubName.read(model)
    return [] if name is None else sorted((Hub.found().folder(name.repo) / "snapshots").glob("*"))


def _look_up(hub: Hub, name: HubName) -> tuple[str, float | None]:
    """The commit that a revision is now, and when the hub was asked; of a hub that cannot be asked, as the cache knows it."""
    if _COMMIT.fullmatch(name.revision):
        return name.revision, None
    cached = hub.cached_commit(name)
    shown = name.repo if name.revision == MAIN else f"{name.repo}@{name.revision}"
    if hub.is_offline:
        if cached is None:
            raise _unreachable(hub, f"the cache {hub.cache} has no {shown}")
        return cached, None
    asked = time.time()
    try:
        listing = _ask(hub, name)
    except Unreachable as error:
        if cached is None:
            raise _unreachable(hub, f"the cache {hub.cache} has no {shown} ({error})") from error
        print(f"brigade: {hub.endpoint} gives no answer ({error}); {shown} is {cached[:12]}, as the cache has it", file=sys.stderr)
        return cached, None
    _listings[hub, name.repo, listing.commit] = listing
    return listing.commit, asked


def _ask(hub: Hub, name: HubName) -> Listing:
    """One request."""
    from huggingface_hub import HfApi, constants

    try:
        info = HfApi(endpoint=hub.endpoint).model_info(
            name.repo, revision=name.revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
        siblings = info.siblings or ()
        files = {one.rfilename: one.size for one in siblings}
        blobs = {one.rfilename: one.blob_id if one.lfs is None else one.lfs.sha256 for one in siblings}
        if info.sha is None or not _COMMIT.fullmatch(info.sha):
            raise ValueError(f"{info.sha!r} is no commit")
    except Exception as error:
        if may_pass(error):
            raise Unreachable(in_one_line(error)[:200]) from error
        raise refusal(error, name.repo, name.revision, hub.endpoint, hub.cache) from error
    return Listing(info.sha, files, blobs)


def _unreachable(hub: Hub, what: str) -> CheckpointError:
    if hub.is_offline:
        return CheckpointError(f"{what}, and HF_HUB_OFFLINE forbids to ask {hub.endpoint}; unset it once, or give a folder")
    return CheckpointError(f"{what}, and {hub.endpoint} cannot be asked; check the network and HF_ENDPOINT, or give a folder")


def _small(has: Callable[[str], bool]) -> list[str]:
    """Files that are read beside the weights, in a model that has those of which `has` is true."""
    files = list(SETTINGS)
    for first, others in OUTDOING:
        files += [first] if has(first) else [first, *others]
    return files


def _instead(listing: Listing) -> str:
    """What a model has that lacks what is read, and what to do about it."""
    endings = {Path(file).suffix for file in listing.files}
    others = [words for ending, words in (
        (".gguf", "GGUF files"), (".safetensors", "safetensors of other names"), (".bin", "pickles"), (".pt", "pickles"),
        (".pth", "pickles"), (".ckpt", "pickles"),
    ) if ending in endings]  # fmt: skip
    has = f"only {', '.join(dict.fromkeys(others))}" if others else "and no weights that are known here"
    return f"{has}; name a model in the format of transformers, with safetensors"


def size_of(count: int) -> str:
    """Bytes, in words."""
    for unit, bits in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 1 << bits:
            return f"{count / (1 << bits):.1f} {unit}"
    return f"{count} bytes"
