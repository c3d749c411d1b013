"""A conversation as the model's chat template writes it, with the variables that a request gives."""

from __future__ import annotations

from brigade.errors import RequestError
from brigade.serve.errors import ApiError
from brigade.serve.job import Object
from brigade.tokenizer import Tokenizer


def render(tokenizer: Tokenizer, messages: list[Object], extra: Object) -> str:
    """The prompt of a conversation. `extra`: a request's own variables, which may be called anything."""
    for name in ("self", "messages"):
        if name in extra:
            raise ApiError(
                400, f"chat_template_kwargs names {name!r}, which is none of its variables; drop it", "chat_template_kwargs"
            )
    if not isinstance(extra.get("add_generation_prompt", True), bool):
        raise ApiError(400, "chat_template_kwargs.add_generation_prompt must be true or false", "chat_template_kwargs")
    try:
        return tokenizer.apply_chat_template(messages, **extra)
    except RequestError as error:
        raise ApiError(400, str(error), "messages") from error
