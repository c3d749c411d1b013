"""One engine and one server for the tests of this room; those that change a setting start a server of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from brigade import LLM
from tests.serve.servers import Running, serving


@pytest.fixture(scope="session")
def llm() -> Iterator[LLM]:
    with LLM(max_batch_size=16, kv_blocks=128) as made:
        yield made


@pytest.fixture(scope="session")
def server(llm: LLM) -> Iterator[Running]:
    with serving(llm) as made:
        yield made
