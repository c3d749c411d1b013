"""A tiny model, a case around it, and records that are written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

from brigade.model.gpt_model import GPTModel
from brigade.verify.record import METRICS, Record, RequestRecord, SampleRecord

RECIPE = {
    "num_layers": 2, "hidden_size": 32, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "ffn_size": 64, "vocab_size": 71,
    "max_positions": 256, "rope": {"rotary_dim": 8}, "qkv_bias": True, "out_bias": True, "mlp_bias": True, "dtype": "float32",
}  # fmt: skip
LONG = [(7 * place + 3) % 71 for place in range(40)]
CASE: dict[str, Any] = {
    "model": "tiny.yaml",
    "random_weights": 5,
    "backend": "reference",
    "settings": {"block_size": 8, "kv_blocks": 64, "max_batch_size": 4},
    "arrivals": 1,
    "params": {"max_tokens": 6, "temperature": 0},
    "prompts": [
        {"token_ids": LONG},
        {"token_ids": [5, 4, 3, 2, 1]},
        {"token_ids": [9, 9, 8], "temperature": 0.9, "seed": 7},
        {"token_ids": [*LONG[:7], 70, *LONG[8:20]]},  # all of the first block but its last id
    ],
}


def write_case(folder: Path, **changes: Any) -> Path:
    """A case's folder with its recipe; a change of None leaves the key out."""
    folder.mkdir(exist_ok=True)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    content = {name: value for name, value in (CASE | changes).items() if value is not None}
    (folder / "case.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder


def record(**changes: Any) -> Record:
    """Two requests of three and of two ids."""
    requests = {
        "0": RequestRecord((1, 2), (SampleRecord((5, 6, 7), "length", (-0.5, -1.25, -0.1), ("aa", "bb", "cc")),)),
        "1": RequestRecord((3,), (SampleRecord((8, 9), "stop", (-2.0, -0.75), ("dd", "ee")),)),
    }
    return Record(**({"numerics_id": "n-1", "fingerprint": "f-1", "metrics": METRICS, "requests": requests} | changes))


def with_sample(name: str, **changes: Any) -> Record:
    """The same, but for one request's only sample."""
    whole = record()
    old = whole.requests[name]
    fields = {field: getattr(old.samples[0], field) for field in SampleRecord.__struct_fields__} | changes
    return record(requests={**whole.requests, name: RequestRecord(old.prompt_token_ids, (SampleRecord(**fields),))})


def nudge_logits(monkeypatch, together: int, row: int) -> None:
    """From now on one logit of `row` is the next larger number, wherever so many rows are computed together."""
    real = GPTModel.logits

    def faulty(self, x_TH, step):
        logits = real(self, x_TH, step)
        if logits.shape[0] == together:
            logits[row, 5] = torch.nextafter(logits[row, 5], torch.tensor(9.0))
        return logits

    monkeypatch.setattr(GPTModel, "logits", faulty)
