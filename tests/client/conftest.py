from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from brigade import LLM
from tests.api.small_model import ROOM, write_model
from tests.client.here import Here


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("client") / "small")


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    """Asked directly: what the others must say."""
    with LLM(folder, **ROOM) as made:
        yield made


@pytest.fixture(scope="module")
def pair(folder: Path) -> Iterator[tuple[LLM, LLM]]:
    """Whose replicas are made and left by tests."""
    with LLM(folder, **ROOM) as first, LLM(folder, **ROOM) as second:
        yield first, second


@pytest.fixture
def here() -> Iterator[Here]:
    made = Here()
    yield made
    made.close()
