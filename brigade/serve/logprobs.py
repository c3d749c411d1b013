"""Log-probabilities in the shapes of the two APIs, and the prompt's in vLLM's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from brigade.engine.sampling.logprobs import TokenLogprobs
from brigade.serve.served import Served

Row = TokenLogprobs | None
LEAST = -9999.0  # of a token that cannot come: JSON has no infinity


def finite(logprob: float) -> float:
    return max(logprob, LEAST)


@dataclass(frozen=True)
class TokenNames:
    """How tokens are written: as their text, or as `token_id:7` where that was asked for."""

    served: Served
    as_ids: bool = False

    def text(self, token_id: int) -> str:
        return f"token_id:{token_id}" if self.as_ids else self.served.token_text(token_id)

    def entry(self, token_id: int, logprob: float) -> dict[str, Any]:
        name = {"token": self.text(token_id), "logprob": finite(logprob)}
        return name | {"bytes": list(self.served.token_bytes(token_id))}


def completion_logprobs(rows: Sequence[Row], ids: Sequence[int], names: TokenNames, offset: int) -> dict[str, Any]:
    """Lists beside each other. The first token of a prompt has no row. `offset`: characters before the first of these tokens."""
    texts = [names.text(token) for token in ids]
    offsets = []
    for token, text in zip(ids, texts, strict=True):
        offsets.append(offset)
        offset += len(names.served.token_text(token)) if names.as_ids else len(text)
    return {
        "tokens": texts,
        "token_logprobs": [None if row is None else finite(row.logprob) for row in rows],
        "top_logprobs": [None if row is None else _tops(row, names) for row in rows],
        "text_offset": offsets,
    }


def _tops(row: TokenLogprobs, names: TokenNames) -> dict[str, float]:
    """Of two tokens with the same text the more likely one. The sampled one is always there."""
    found: dict[str, float] = {}
    for token, logprob in (*row.top, (row.token_id, row.logprob)):
        found.setdefault(names.text(token), finite(logprob))
    return found


def chat_logprobs(rows: Sequence[TokenLogprobs], names: TokenNames, top: int) -> dict[str, Any]:
    content = [
        names.entry(row.token_id, row.logprob) | {"top_logprobs": [names.entry(*one) for one in row.top[:top]]} for row in rows
    ]  # fmt: skip
    return {"content": content, "refusal": None}


def prompt_logprobs(rows: Sequence[Row], names: TokenNames) -> list[dict[str, Any] | None]:
    """For each position of the prompt: by id, the token that is there and the most likely ones."""
    found: list[dict[str, Any] | None] = []
    for row in rows:
        if row is None:
            found.append(None)
            continue
        ranked = [(token, logprob, rank) for rank, (token, logprob) in enumerate(row.top, 1)]
        entries = {str(token): _prompt_entry(token, logprob, rank, names) for token, logprob, rank in ranked}
        entries[str(row.token_id)] = _prompt_entry(row.token_id, row.logprob, row.rank, names)
        found.append(entries)
    return found


def _prompt_entry(token: int, logprob: float, rank: int, names: TokenNames) -> dict[str, Any]:
    return {"logprob": finite(logprob), "rank": rank, "decoded_token": names.served.token_text(token)}
