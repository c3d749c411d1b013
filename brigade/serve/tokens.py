"""`/tokenize` and `/detokenize`: what text and ids are to this model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from brigade.errors import RequestError
from brigade.serve.errors import ApiError
from brigade.serve.fields import convert, template_variables
from brigade.serve.job import Object
from brigade.serve.served import Served


class TokenizeBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    return_token_strs: bool = False
    chat_template_kwargs: dict[str, Any] | None = None


class DetokenizeBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    model: str | None = None
    tokens: list[int]


def tokenize(found: Mapping[str, Any], served: Served) -> Object:
    body = convert(found, TokenizeBody)
    served.check_name(body.model)
    tokenizer = served.need_tokenizer("/tokenize")
    if (body.prompt is None) == (body.messages is None):
        raise ApiError(400, "give prompt, or messages, and not both", "prompt")
    if body.prompt is not None:
        ids = tokenizer.encode(body.prompt, add_special_tokens=body.add_special_tokens)
    else:
        extra = template_variables(body.chat_template_kwargs)
        try:
            text = tokenizer.apply_chat_template(body.messages or [], body.add_generation_prompt, **extra)
        except RequestError as error:
            raise ApiError(400, str(error), "messages") from error
        ids = tokenizer.encode(text, add_special_tokens=False)
    strings = [tokenizer.token_text(one) for one in ids] if body.return_token_strs else None
    return {"count": len(ids), "max_model_len": served.positions, "tokens": ids, "token_strs": strings}


def detokenize(found: Mapping[str, Any], served: Served) -> Object:
    body = convert(found, DetokenizeBody)
    served.check_name(body.model)
    bad = next((one for one in body.tokens if not 0 <= one < served.vocab_size), None)
    if bad is not None:
        raise ApiError(400, f"tokens names {bad}; this model's ids go from 0 to {served.vocab_size - 1}", "tokens")
    return {"prompt": served.need_tokenizer("/detokenize").decode(body.tokens, skip_special_tokens=False)}
