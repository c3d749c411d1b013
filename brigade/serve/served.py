"""The model that is served, as far as a translation needs to know it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from brigade.serve.errors import ApiError
from brigade.tokenizer import Tokenizer


@dataclass(frozen=True)
class Served:
    """`names`: what a request may call it; the first is said back where none was given. `fingerprint`: equal ones, and equal seeds,
    mean equal bits. `positions`: of the longest request, prompt and answer together. `identity`, `replicas_read_text`: of replicas
    behind a coordinator, the digest of their identity, and whether they have a tokenizer."""

    names: Sequence[str]
    fingerprint: str
    positions: int
    vocab_size: int
    tokenizer: Tokenizer | None
    defaults: Mapping[str, Any] = field(default_factory=dict)  # the model's own sampling parameters
    created: int = 0
    identity: str = ""
    replicas_read_text: bool = True
    model: str = ""  # what it is called by itself, whatever names it is served by

    @property
    def root(self) -> str:
        return self.model or self.name

    @property
    def name(self) -> str:
        return self.names[0]

    def check_name(self, name: str | None) -> str:
        """The name to say back."""
        if name is None:
            return self.name
        if name not in self.names:
            served = ", ".join(self.names)
            raise ApiError(404, f"the model {name[:200]!r} is not served here; there is {served}", "model", "model_not_found")
        return name

    def need_tokenizer(self, what: str) -> Tokenizer:
        if self.tokenizer is None:
            raise ApiError(
                400, f"{what} needs the model's tokenizer, which this server does not have; give token ids to /v1/completions, "
                "or start it with --tokenizer"
            )  # fmt: skip
        return self.tokenizer

    def token_text(self, token_id: int) -> str:
        return "" if self.tokenizer is None else self.tokenizer.token_text(token_id)

    def token_bytes(self, token_id: int) -> bytes:
        return b"" if self.tokenizer is None else self.tokenizer.token_bytes(token_id)
