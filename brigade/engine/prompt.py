"""What a prompt may be, how one is told from many, and how it becomes ids.

The engine and everything above it read prompts here and nowhere else.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Number
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from brigade.errors import RequestError

if TYPE_CHECKING:
    from brigade.tokenizer import Tokenizer

KINDS = "a text, a ChatPrompt, or a list of token ids"
GIVE_IDS = 'give token ids: a list in Python, generate --token-ids "1 2 3" on the command line'


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A text that a chat template wrote, its special tokens included: encoding adds none.

    It is no `str`, so that joining it to one cannot lose the mark by accident; to begin the answer, make another:
    `ChatPrompt(prompt.text + "Sure")`.
    """

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise RequestError(f"a ChatPrompt of {_shown(self.text)} is no text; give a str")


Prompt = str | ChatPrompt | Sequence[int] | np.ndarray | torch.Tensor


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """The ids of a prompt, and its text as it was given; None where ids were given."""

    token_ids: list[int]
    text: str | None


def encode_prompt(prompt: Prompt, tokenizer: Tokenizer | None) -> EncodedPrompt:
    """One prompt. Whether the model knows its ids is for the caller to check."""
    if not isinstance(prompt, (str, ChatPrompt)):
        return EncodedPrompt(read_ids(prompt), None)
    if tokenizer is None:
        raise RequestError(f"this model has no tokenizer, so a text prompt cannot be read; {GIVE_IDS}", "prompt")
    if isinstance(prompt, ChatPrompt):
        return EncodedPrompt(tokenizer.encode(prompt.text, add_special_tokens=False), prompt.text)
    text = str(prompt)
    return EncodedPrompt(tokenizer.encode(text), text)


@contextmanager
def named(number: int, count: int) -> Iterator[None]:
    """A refusal says which of several prompts it is about."""
    try:
        yield
    except RequestError as error:
        if count == 1:
            raise
        raise RequestError(f"prompt {number}: {error}", error.param, error.kind) from error


def write_chat(messages: Any, tokenizer: Tokenizer | None) -> ChatPrompt:
    """The prompt that a conversation becomes, by the model's own template."""
    if not isinstance(messages, Sequence) or not messages or not all(isinstance(one, Mapping) for one in messages):
        raise RequestError(
            "a conversation is a list of messages such as {'role': 'user', 'content': 'Hello'}; "
            f"this is {'an empty list' if isinstance(messages, list) and not messages else f'a {type(messages).__name__}'}"
        )
    if tokenizer is None:
        raise RequestError(f"this model has no tokenizer, so it has no chat template either; {GIVE_IDS}")
    return ChatPrompt(tokenizer.apply_chat_template(messages))


def as_prompts(prompts: Prompt | Iterable[Prompt]) -> list[Prompt]:
    """One prompt or many. A list of numbers is one prompt; an array of two dimensions is a prompt in each row."""
    if isinstance(prompts, np.ndarray) and prompts.dtype.kind in "UO":
        prompts = prompts.tolist()  # texts, or lists of unequal length
    if isinstance(prompts, (str, ChatPrompt)):
        return [prompts]
    if isinstance(prompts, (np.ndarray, torch.Tensor)):
        return list(prompts) if prompts.ndim == 2 else [prompts]
    found = _as_list(prompts)
    return [found] if found and _is_number(found[0]) else found


def read_ids(prompt: Any) -> list[int]:
    if isinstance(prompt, (np.ndarray, torch.Tensor)):
        return _read_array(prompt)
    ids = _as_list(prompt)
    if _all_integers(ids):
        return ids
    return [_read_id(place, one) for place, one in enumerate(ids)]


def _read_array(prompt: np.ndarray | torch.Tensor) -> list[int]:
    if prompt.ndim != 1:
        raise RequestError(f"a prompt is an array of {prompt.ndim} dimensions, shape {tuple(prompt.shape)}; give 1: its token ids")
    ids = prompt.tolist()
    if not _all_integers(ids):
        raise RequestError(f"a prompt is an array of {prompt.dtype}; token ids are integers")
    return ids


def _all_integers(ids: list[Any]) -> bool:
    return set(map(type, ids)) <= {int}


def _read_id(place: int, one: Any) -> int:
    refused = isinstance(one, (bool, np.bool_)) or (isinstance(one, torch.Tensor) and (one.ndim > 0 or one.dtype == torch.bool))
    try:
        if not refused:
            return operator.index(one)
    except TypeError:
        pass
    raise RequestError(f"token id {place} of a prompt is {_shown(one)}; a prompt is {KINDS}, which are integers", "prompt")


def _as_list(value: Any) -> list[Any]:
    # Sets have no order, and bytes are integers only by accident.
    if isinstance(value, (bytes, bytearray, memoryview, Mapping, Set)) or not isinstance(value, Iterable):
        remedy = "; a conversation is for chat()" if isinstance(value, Mapping) else ""
        raise RequestError(f"a prompt is {_shown(value)}; give {KINDS}{remedy}", "prompt")
    return list(value)


def _is_number(value: Any) -> bool:
    """Also what is no token id, such as 1.5: a list that begins with it was meant as one."""
    if isinstance(value, torch.Tensor):
        return value.ndim == 0
    return isinstance(value, (Number, np.number, np.bool_))


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
