"""`/tokenize` and `/detokenize`: what text and ids are to this model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from brigade.serve.errors import ApiError
from brigade.serve.fields import convert
from brigade.serve.job import Object
from brigade.serve.served import Served
from brigade.serve.turn import write_prompt
from brigade.tokenizer import Tokenizer


class TokenizeBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    add_special_tokens: bool | None = None  # to a prompt, unless false; a chat template writes its own
    add_generation_prompt: bool | None = None  # to messages, unless false
    return_token_strs: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def check(self) -> None:
        if (self.prompt is None) == (self.messages is None):
            raise ApiError(400, "give prompt, or messages, and not both", "prompt")
        if self.messages is not None:
            if not self.messages:
                raise ApiError(400, "messages is empty; give at least one, or give prompt", "messages")
            if self.add_special_tokens:
                raise ApiError(
                    400,
                    "add_special_tokens has no effect on messages, whose template writes its own; drop it",
                    "add_special_tokens",
                )
            return
        for name in ("add_generation_prompt", "chat_template_kwargs"):
            if getattr(self, name) is not None:
                raise ApiError(400, f"{name} has no effect on a prompt; give messages, or drop it", name)


class DetokenizeBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    model: str | None = None
    tokens: list[int]


def tokenize(found: Mapping[str, Any], served: Served) -> Object:
    body = convert(found, TokenizeBody)
    served.check_name(body.model)
    tokenizer = served.need_tokenizer("/tokenize")
    body.check()
    if body.prompt is not None:
        ids = tokenizer.encode(body.prompt, add_special_tokens=body.add_special_tokens is not False)
    else:
        ids = tokenizer.encode(_conversation(body, tokenizer), add_special_tokens=False)
    strings = [tokenizer.token_text(one) for one in ids] if body.return_token_strs else None
    return {"count": len(ids), "max_model_len": served.positions, "tokens": ids, "token_strs": strings}


def _conversation(body: TokenizeBody, tokenizer: Tokenizer) -> str:
    generation = body.add_generation_prompt is not False
    return write_prompt(body.messages or [], body.chat_template_kwargs, tokenizer, add_generation_prompt=generation)


def detokenize(found: Mapping[str, Any], served: Served) -> Object:
    body = convert(found, DetokenizeBody)
    served.check_name(body.model)
    bad = next((one for one in body.tokens if not 0 <= one < served.vocab_size), None)
    if bad is not None:
        raise ApiError(400, f"tokens names {bad}; this model's ids go from 0 to {served.vocab_size - 1}", "tokens")
    return {"prompt": served.need_tokenizer("/detokenize").decode(body.tokens, skip_special_tokens=False)}
