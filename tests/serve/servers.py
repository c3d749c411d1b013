"""A server of this process on a real socket, for clients of any kind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from brigade import LLM, AsyncLLM
from brigade.serve.api_keys import ApiKeys
from brigade.serve.app import App
from brigade.serve.desk import Desk
from brigade.serve.health import EngineHealth
from brigade.serve.limits import Limits
from brigade.serve.served import Served
from brigade.serve.server import BACKLOG, Server, bind


class Running:
    """`lines`: what the log said."""

    def __init__(self, app: App, server: Server, port: int, lines: list[dict[str, Any]]) -> None:
        self.app, self.server, self.port, self.lines = app, server, port, lines

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def served_of(llm: LLM, names: Sequence[str] = ("mini",), tokenizer: Any = None) -> Served:
    fingerprint = f"{llm.numerics_id}-{llm.fingerprint}"
    return Served(names, fingerprint, llm.engine.limit, llm.config.vocab_size, tokenizer or llm.tokenizer, llm.sampling_defaults, 1)


@contextmanager
def serving(
    llm: LLM, keys: Sequence[str] = (), limits: Limits | None = None, tokenizer: Any = None, tls: Any = (), **more: Any
) -> Iterator[Running]:
    """`tls`: a certificate and its key."""
    lines: list[dict[str, Any]] = []
    app = App(
        served_of(llm, ("mini", "other"), tokenizer), Desk(AsyncLLM(llm)), EngineHealth(llm), ApiKeys(keys), limits or Limits(),
        log=lines.append, **more,
    )  # fmt: skip
    server, listener = Server(app, *tls), bind("127.0.0.1", 0)
    listener.listen(BACKLOG)
    thread = threading.Thread(target=lambda: asyncio.run(server._serve([listener])), daemon=True)
    thread.start()
    try:
        yield Running(app, server, listener.getsockname()[1], lines)
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)
        assert not thread.is_alive()
