"""Brigade: an inference system for GPTs. Same model, same prompt, same bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public names and their rooms. They are imported at first use, so that a command loads only what it needs.
_HOMES = {
    "LLM": "brigade.api.llm",
    "AsyncLLM": "brigade.api.async_llm",
    "ChatPrompt": "brigade.engine.prompt",
    "SamplingParams": "brigade.engine.sampling.params",
    "StaticEngine": "brigade.engine.engine",
    "DynamicEngine": "brigade.engine.engine",
    "TextGenerationController": "brigade.engine.controller",
    "Scheduler": "brigade.engine.scheduler",
    "EngineConfig": "brigade.engine.config",
    "ModelConfig": "brigade.config",
    "EngineStopped": "brigade.errors",
    "ModuleSpec": "brigade.model.spec",
    "build_module": "brigade.model.spec",
    "gpt_layer_spec": "brigade.model.layer_specs",
    "moe_spec": "brigade.model.moe_specs",
    "open_model": "brigade.checkpoint.load",
    "load_model": "brigade.checkpoint.load",
    "get_backend": "brigade.backends.registry",
    "register_backend": "brigade.backends.registry",
    "register_family": "brigade.checkpoint.families.registry",
    "register_parameter": "brigade.engine.sampling.extra",
}

__all__ = [*_HOMES, "__version__"]

if TYPE_CHECKING:
    from brigade.api.async_llm import AsyncLLM
    from brigade.api.llm import LLM
    from brigade.engine.prompt import ChatPrompt
    from brigade.engine.sampling.params import SamplingParams


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'brigade' has no attribute {name!r}")
    from importlib import import_module

    from brigade.collector import resting

    with resting():
        found = getattr(import_module(_HOMES[name]), name)
    globals()[name] = found  # asked for once
    return found
