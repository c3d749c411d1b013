"""The fingerprint of a model: one word for what a run computes with, whatever file it came from and however it is cut.

It is made of the sums of all tensors (`backends/sums.py`), of the network in numbers, of how its weights are held, and of the
tokenizer: its files and the ids that begin and end a text. The shapes of tensors follow from the network in numbers. What a request
or an engine chooses is no part of it, nor are the machine and the numerics id.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from typing import Any

from brigade.artifact.manifest import digest_of
from brigade.assembly.line import Blueprint, Parts
from brigade.backends.sums import TensorSum
from brigade.checkpoint.load import fill, weights_for
from brigade.checkpoint.weights import Progress
from brigade.model.gpt_model import empty_model
from brigade.tokenizer import Tokenizer
from brigade.tokenizer.folder import TokenizerFolder

LENGTH = 32  # hexadecimal digits
VERSION = 1  # of what is said here; another version gives every model another fingerprint


def loaded_fingerprint(parts: Parts) -> str:
    """Of a model that is loaded, on all of its ranks."""
    drawn = parts.blueprint
    counted = _counted_at_export(drawn)
    if counted:
        return compose(drawn, parts.tokenizer, counted)
    if parts.leader is not None:
        return compose(drawn, parts.tokenizer, parts.leader.tensor_sums(drawn.dtype))
    return compose(drawn, parts.tokenizer, drawn.backend.tensor_sums(parts.model, drawn.dtype))


def fingerprint_of(blueprint: Blueprint, progress: Progress | None = None) -> str:
    """Of a model that is not loaded. Each tensor is read, held as the backend holds it, and dropped; an artifact says its sums. On
    one rank, whatever layout the blueprint is for: the fingerprint is the same."""
    source, backend, dtype = blueprint.source, blueprint.backend, blueprint.dtype
    tokenizer = Tokenizer.of_model(source.tokenizer_path)
    counted = _counted_at_export(blueprint)
    if counted:
        return compose(blueprint, tokenizer, counted)
    model = empty_model(source.config, backend)
    if source.artifact is not None:
        return compose(blueprint, tokenizer, backend.tensor_sums(fill(model, source, dtype, progress=progress), dtype))
    weights = weights_for(model, source, dtype, blueprint.random_weights, progress)
    return compose(blueprint, tokenizer, backend.tensor_sums(model, dtype, weights))


def _counted_at_export(blueprint: Blueprint) -> tuple[TensorSum, ...]:
    """An artifact's sums, which were counted when it was exported. Every run proves that the bytes it takes are those of then."""
    artifact = blueprint.source.artifact
    return () if artifact is None else artifact.manifest.tensor_sums


def compose(blueprint: Blueprint, tokenizer: Tokenizer | None, sums: Iterable[TensorSum]) -> str:
    source, backend = blueprint.source, blueprint.backend
    tensors: dict[str, tuple[str, int]] = {}
    for one in sums:
        kind, before = tensors.get(one.name, (one.kind, 0))
        assert kind == one.kind, f"{one.name} is {kind} on one rank and {one.kind} on another"
        tensors[one.name] = kind, (before + one.value) % (1 << 64)
    folder = source.tokenizer_path
    files = [] if folder is None else TokenizerFolder(folder).files()
    facts = {
        "version": VERSION, "config": _canonical(dataclasses.asdict(source.config)),
        "dtype": str(blueprint.dtype).removeprefix("torch."), "quant": backend.quant.label if backend.quantises else "none",
        "tokenizer": None if tokenizer is None else {
            "bos": tokenizer.bos_id, "eos": list(tokenizer.eos_ids),
            "files": {path.name: digest_of(path) for path in files},
        },
        "tensors": {name: [kind, f"{value:016x}"] for name, (kind, value) in tensors.items()},
    }  # fmt: skip
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:LENGTH]


def _canonical(value: Any) -> Any:
    """A whole number is written in one way, whether a file called it 10000 or 10000.0."""
    if isinstance(value, dict):
        return {name: _canonical(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
