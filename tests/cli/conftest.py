"""Commands that run as processes of their own end with the test that began them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def commands() -> Iterator[list[Any]]:
    """Where a test puts each `Command` that it starts."""
    made: list[Any] = []
    yield made
    for one in made:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()
