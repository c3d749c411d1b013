"""A small hub on this machine: what the real client library asks of the real one, and a list of what was asked."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """Commits, each a folder's files by name, and branches and tags, each the name of a commit."""

    commits: dict[str, Mapping[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gate: str = ""  # open; or gated, private, broken: to whoever has no token

    def commit(self, files: Mapping[str, bytes], *refs: str) -> str:
        digest = hashlib.sha1(repr(sorted((name, hashlib.sha1(data).hexdigest()) for name, data in files.items())).encode())
        name = digest.hexdigest()
        self.commits[name] = dict(files)
        self.refs |= dict.fromkeys(refs, name)
        return name


@dataclass
class LocalHub:
    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)  # as "GET /path"
    ranges: list[str] = field(default_factory=list)  # of which only a part was asked
    breaks: dict[str, int] = field(default_factory=dict)  # of a file: so many downloads end before its end
    failing: int = 0  # the status of every answer, where it is not 0
    pause: float = 0.0  # seconds before each file, so that others come meanwhile
    token: str = "secret"

    def repository(self, name: str) -> Repository:
        return self.repositories.setdefault(name, Repository())

    def fetched(self) -> list[str]:
        """The files of which anything was sent."""
        return [line.rpartition("/")[2] for line in self.asked if line.startswith("GET ") and "/resolve/" in line]

    def listings(self) -> int:
        return sum("/api/models/" in line for line in self.asked)


def folder_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@contextmanager
def serving() -> Iterator[LocalHub]:
    hub = LocalHub()

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    served: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        hub, path = self.served, unquote(urlsplit(self.path).path)
        words = path.strip("/").split("/")
        is_listing = words[:2] == ["api", "models"] and "revision" in words[4:5]
        is_file = len(words) == 5 and words[2] == "resolve"
        if not (is_listing or is_file):
            return self._say(404, b"{}")
        hub.asked.append(f"{self.command} {path}")
        if hub.failing:
            return self._say(hub.failing, b"{}")
        repository = hub.repositories.get("/".join(words[2:4] if is_listing else words[:2]))
        has_token = self.headers.get("Authorization") == f"Bearer {hub.token}"
        if self.headers.get("Authorization") and not has_token:
            return self._say(401, b"{}", {"X-Error-Message": "Invalid credentials in Authorization header"})
        if repository is None or (repository.gate == "private" and not has_token):
            return self._say(401, b"{}", {"X-Error-Message": "Invalid username or password."})
        if is_file and repository.gate == "gated" and not has_token:  # what it consists of is no secret
            return self._say(401, b"{}", {"X-Error-Code": "GatedRepo"})
        revision = "/".join(words[5:]) if is_listing else words[3]
        commit = repository.refs.get(revision, revision)
        files = repository.commits.get(commit)
        if files is None:
            return self._say(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if is_listing:
            siblings = [
                {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(data).hexdigest(),
                 "lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}}
                for name, data in files.items()
            ]  # fmt: skip
            about = {"_id": "1", "id": "/".join(words[2:4]), "modelId": "/".join(words[2:4]), "sha": commit, "siblings": siblings}
            return self._say(200, json.dumps(about).encode(), {"Content-Type": "application/json"})
        data = files.get(words[4])
        if data is None:
            return self._say(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        about = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if not with_body:
            return self._say(200, data, about)
        time.sleep(hub.pause)
        self._send(words[4], data, about)

    def _send(self, name: str, data: bytes, about: dict[str, str]) -> None:
        wanted, status, body = self.headers.get("Range"), 200, data
        if wanted is not None:
            self.served.ranges.append(f"{name} {wanted}")
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            status, body = 206, data[start:]
            about |= {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        if self.served.breaks.get(name, 0) > 0:
            self.served.breaks[name] -= 1
            self._say(status, body, about, sent=len(body) * 19 // 20)
            self.close_connection = True
            return
        self._say(status, body, about)

    def _say(self, status: int, body: bytes, about: Mapping[str, str] | None = None, sent: int | None = None) -> None:
        self.send_response(status)
        for name, value in (about or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:sent])
