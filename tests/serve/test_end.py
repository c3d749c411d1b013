"""A server that can compute nothing any more ends by itself."""

from __future__ import annotations

import asyncio

from brigade import LLM, AsyncLLM
from brigade.serve.app import App
from brigade.serve.desk import Desk
from brigade.serve.health import EngineHealth
from brigade.serve.server import BACKLOG, Server, bind
from tests.serve.servers import served_of


def test_a_server_ends_once_nothing_can_be_computed(llm: LLM) -> None:
    app, looks = App(served_of(llm), Desk(AsyncLLM(llm)), EngineHealth(llm)), iter([False, False, True])
    listener = bind("127.0.0.1", 0)
    listener.listen(BACKLOG)
    server = Server(app, is_over=lambda: next(looks))
    asyncio.run(asyncio.wait_for(server._serve([listener]), 10))
    assert next(looks, None) is None, "it looked until it was so"
