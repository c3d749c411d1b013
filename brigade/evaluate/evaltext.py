"""A text as the tokens to score, and the bytes that those tokens stand for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from brigade.errors import RequestError
from brigade.tokenizer import Tokenizer


@dataclass(frozen=True)
class EvalText:
    """`ids[0]` is only read, never scored: the tokenizer's bos where it has one, else the text's own first token, whose
    bytes are then left out of `scored_bytes`."""

    ids: tuple[int, ...]
    num_bytes: int
    scored_bytes: int
    starts_with_bos: bool
    every_window_starts: bool  # the tokenizer itself puts bos before every text, so no window goes without
    is_restored: bool  # the tokens give the text back byte for byte

    @property
    def first_token(self) -> str:
        if self.starts_with_bos:
            return "the first token is scored after bos; every byte is counted"
        left = self.num_bytes - self.scored_bytes
        return f"the tokenizer has no bos, so the first token is not scored and its {left} bytes are not counted"


def read_text(path: Path) -> str:
    """The file's bytes as they are: no newline is translated, so that bytes can be counted."""
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise RequestError(f"cannot read {path} ({error.strerror}); give a text file in UTF-8") from error
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{path} is not UTF-8 (byte {error.object[error.start]:#04x} at {error.start}); give a text file in UTF-8"
        ) from error
    if not text:
        raise RequestError(f"{path} is empty; give a file with a text to score")
    return text


def encode_text(text: str, tokenizer: Tokenizer) -> EvalText:
    # A tokenizer that adds an end of text would have it scored as if it were in the file: so only bos, and by hand.
    own = tokenizer.encode(text, add_special_tokens=False)
    if not own:
        raise RequestError("the text has 0 tokens; give a longer text")
    size, bos = len(text.encode()), tokenizer.bos_id
    restored = tokenizer.decode(own, skip_special_tokens=False) == text
    if bos is None:
        if len(own) < 2:
            raise RequestError("the text has 1 token and the tokenizer no bos, so there is nothing to score; give a longer text")
        left = _leading_bytes(text.encode(), tokenizer.token_bytes(own[0]))
        return EvalText(tuple(own), size, size - left, False, False, restored)
    return EvalText((bos, *own), size, size, True, tokenizer.encode("")[:1] == [bos], restored)


def _leading_bytes(data: bytes, piece: bytes) -> int:
    """How much of the text its first token is: some tokenizers' tokens bring a space that a text's start does not have."""
    return len(piece) if data.startswith(piece) else min(len(piece.lstrip(b" ")), len(data))


def check_same_ids(model: EvalText, other: EvalText, tokenizer: Tokenizer, other_tokenizer: Tokenizer) -> None:
    """Two models can be compared position by position only if an id means the same to both."""
    sizes = tokenizer.vocab_size, other_tokenizer.vocab_size
    if sizes[0] != sizes[1]:
        raise RequestError(f"the tokenizers have {sizes[0]} and {sizes[1]} ids; --against needs a model of the same tokenizer")
    if model.ids != other.ids:
        at = next((i for i, (a, b) in enumerate(zip(model.ids, other.ids, strict=False)) if a != b), "their end")
        raise RequestError(f"the tokenizers read the text apart from token {at} on; --against needs a model of the same tokenizer")
    apart = next((i for i in range(sizes[0]) if tokenizer.token_bytes(i) != other_tokenizer.token_bytes(i)), None)
    if apart is not None:
        texts = tokenizer.token_text(apart), other_tokenizer.token_text(apart)
        raise RequestError(
            f"token id {apart} is {texts[0]!r} to one model and {texts[1]!r} to the other; "
            "--against needs a model of the same tokenizer"
        )
