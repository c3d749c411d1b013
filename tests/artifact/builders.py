"""Small artifacts, made as a user would make them."""

from __future__ import annotations

from pathlib import Path

import torch

from brigade import LLM
from brigade.artifact.writer import Facts, write_artifact
from brigade.checkpoint.load import open_model
from brigade.cli.main import main

ROOM = {"kv_blocks": 16, "max_batch_size": 2}


def export(model: str | Path, out: Path, *argv: str) -> Path:
    assert main(["export", str(model), str(out), *argv]) == 0
    return out


def llm_of(model: str | Path | None, **settings) -> LLM:
    return LLM(model, **(ROOM | settings))


def write_from(llm: LLM, source: Path, out: Path) -> Path:
    """Without loading a second time."""
    quant = llm.backend.quant
    facts = Facts(llm.name, llm.config, str(llm.dtype).removeprefix("torch."), quant.scheme, quant.skip, llm.backend.numerics_id)
    write_artifact(out, llm.model.packed, facts, open_model(source).path)
    return out


def logits_of(llm: LLM, count: int = 40) -> torch.Tensor:
    ids = torch.randint(0, llm.config.vocab_size, (count,), generator=torch.Generator().manual_seed(1)).tolist()
    return llm.logits([ids])[0]
