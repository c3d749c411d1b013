"""Ranks take seconds to start: tests that need the same ones, and follow each other, share them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from brigade import LLM
from tests.api.small_model import load, write_model

LAYOUTS: dict[str, dict[str, Any]] = {
    "pp2": {"pp": 2},
    "tp2-group": {"tp": 2, "exchange": "group"},
    "reference-tp2": {"tp": 2, "backend": "reference"},
    "reference-tp2-group": {"tp": 2, "backend": "reference", "exchange": "group"},
    "tp2-pp2": {"tp": 2, "pp": 2, "exchange": "shared"},
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def layouts(folder: Path) -> Iterator[Callable[[str], tuple[LLM, LLM]]]:
    """The small model on one rank, and on a layout. Another one than the last ends that one's ranks."""
    held: dict[str, tuple[LLM, LLM]] = {}

    def end() -> None:
        while held:
            for llm in held.popitem()[1]:
                llm.close()

    def of(name: str) -> tuple[LLM, LLM]:
        if name not in held:
            end()
            settings = LAYOUTS[name]
            held[name] = load(folder, backend=settings.get("backend", "auto")), load(folder, **settings)
        return held[name]

    yield of
    end()
