"""The memory of a second engine over the same weights is planned with them in place."""

from __future__ import annotations

from pathlib import Path

import pytest

from brigade import LLM
from brigade.assembly.choices import Choices
from brigade.assembly.line import draw
from brigade.backends.base import Backend
from brigade.backends.cpu.library import find_kernels
from tests.artifact.builders import export

FREE = 1 << 30


def test_weights_that_were_loaded_count_as_room_that_the_plan_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backend, "free_memory", lambda self: FREE)
    blueprint = draw(Choices(engine_settings={"kv_blocks": 8}))
    first, second = blueprint.plan(), blueprint.plan(is_loaded=True)
    assert first.available == FREE and second.available == FREE + first.weights + first.tables


@pytest.mark.skipif(find_kernels() is None, reason="the C++ kernels are not built: no compiler on this machine")
def test_mapped_weights_count_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The system says that their pages are free, since it may take them back."""
    monkeypatch.setattr(Backend, "free_memory", lambda self: FREE)
    blueprint = draw(Choices(export("mini", tmp_path / "out"), engine_settings={"kv_blocks": 8}))
    first, second = blueprint.plan(), blueprint.plan(is_loaded=True)
    assert first.weights > 0 and second.available == FREE + first.tables


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("settings", [{}, {"max_model_len": 64, "max_waiting": 3}])
def test_what_is_refused_before_loading_is_what_the_engine_refuses(kind: str, settings: dict) -> None:
    seen = []
    with LLM(engine=kind, kv_blocks=8, check=lambda blueprint, plan: seen.append(blueprint.limits(plan)), **settings) as llm:
        assert seen == [llm.engine.limits]
