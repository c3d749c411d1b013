"""Chromium without a window, driven by its own protocol (https://chromedevtools.github.io/devtools-protocol/) over two pipes."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--force-color-profile=srgb",
)  # fmt: skip
PATIENCE = 60.0  # seconds for one answer
READS, WRITES = 3, 4  # where the browser expects its pipes


def find_browser() -> str | None:
    return next((path for path in map(shutil.which, NAMES) if path is not None), None)


class Browser:
    """One process and one tab. `events` are what the browser told unasked since the page was opened."""

    def __init__(self, command: str, folder: Path) -> None:
        to_browser, self._to = os.pipe()
        self._from, from_browser = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 16) for end in (to_browser, from_browser)]  # out of the way of 3 and 4
        os.close(to_browser), os.close(from_browser)

        def place() -> None:
            os.dup2(ends[0], READS), os.dup2(ends[1], WRITES)

        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # it refuses to build one for root
        argv = [command, *OPTIONS, *sandbox, f"--user-data-dir={folder}", "about:blank"]
        self._log = (folder / "browser.log").open("wb")
        self._process = subprocess.Popen(
            argv, preexec_fn=place, pass_fds=(READS, WRITES), stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )  # fmt: skip
        for end in ends:
            os.close(end)
        self._number, self._pending, self._session = 0, b"", None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        order = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            order["sessionId"] = self._session
        os.write(self._to, json.dumps(order).encode() + b"\0")
        while (said := self._read()).get("id") != self._number:
            self.events.append(said)
        assert "error" not in said, f"{method}: {said['error']}"
        return said["result"]

    def open(self, path: Path, width: int = 1200, dark: bool = False, media: str = "") -> None:
        """Until everything is loaded and laid out."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def ask(self, expression: str) -> Any:
        """What JavaScript finds on the page; the page's own rules against scripts do not hold for it."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def complaints(self) -> list[str]:
        """Everything that would stand on the console."""
        self.ask("0")  # what was told before this answer is here now
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(event["params"]) for event in self.events if event["method"] in kinds]

    def requested(self) -> list[str]:
        self.ask("0")
        return [event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"]

    def screenshot(self, path: Path) -> None:
        taken = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))

    def close(self) -> None:
        self._session = None
        try:
            self.call("Browser.close")
            self._process.wait(10)
        except (AssertionError, OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._log.close()
        os.close(self._to), os.close(self._from)

    def _read(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._pending:
            ready, _, _ = select.select([self._from], [], [], max(0.0, end - time.monotonic()))
            chunk = os.read(self._from, 1 << 16) if ready else b""
            assert chunk, f"the browser {'left' if ready else f'said nothing for {PATIENCE:.0f} s'}; see {self._log.name}"
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\0")
        return json.loads(line)
