"""What each id stands for: the shared table behind every detokenizer of one tokenizer."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Literal

import tokenizers

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_level_alphabet() -> dict[str, int]:
    """Character -> byte of byte-level BPE: printable Latin-1 stands for itself, the other bytes follow from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    alphabet.update({chr(0x100 + rank): byte for rank, byte in enumerate(others)})
    return alphabet


_ALPHABET = _byte_level_alphabet()


@dataclass(frozen=True)
class Decoding:
    """How a tokenizer joins its tokens to text, as far as it matters for doing so piece by piece.

    `byte_level`: every token is bytes. `byte_fallback`: tokens are text, `<0xNN>` tokens are bytes.
    `general`: something else, which only the tokenizer itself can decode.
    """

    kind: Literal["byte_level", "byte_fallback", "general"]
    replacements: tuple[tuple[str, str], ...] = ()
    strip_char: str = " "
    strip_count: int = 0
    has_byte_tokens: bool = False

    @classmethod
    def of(cls, hf: tokenizers.Tokenizer) -> Decoding:
        if hf.decoder is None:
            return cls("general")
        state = json.loads(hf.decoder.__getstate__())
        steps = state["decoders"] if state["type"] == "Sequence" else [state]
        has_byte_tokens = any(step["type"] == "ByteFallback" for step in steps)
        names = [step["type"] for step in steps]
        if names == ["ByteLevel"]:
            return cls("byte_level")
        strip = steps[-1] if names and names[-1] == "Strip" else None
        body, replaces = (steps[:-1] if strip else steps), []
        while body and body[0]["type"] == "Replace" and "String" in body[0]["pattern"]:
            replaces.append((body[0]["pattern"]["String"], body[0]["content"]))
            body = body[1:]
        # A strip at the end of the text would have to know the end before it comes: that is the general case.
        if [step["type"] for step in body] == ["ByteFallback", "Fuse"] and (strip is None or strip["stop"] == 0):
            content, count = (strip["content"], strip["start"]) if strip else (" ", 0)
            return cls("byte_fallback", tuple(replaces), content, count, True)
        return cls("general", has_byte_tokens=has_byte_tokens)


class Pieces(dict[int, "str | bytes | None"]):
    """id -> its text, or its bytes where they are no text by themselves, or None where decoding leaves it out.

    One table serves all streams of a tokenizer. An entry is made when its id is first seen, because a table of a
    200,000-word vocabulary made at once would cost a quarter of a second before the first token. Ids that the
    tokenizer does not know (a vocabulary padded by the model) decode to nothing and are not stored.
    """

    def __init__(self, hf: tokenizers.Tokenizer, decoding: Decoding, skipped: frozenset[str]) -> None:
        super().__init__()
        self._hf = hf
        self._decoding = decoding
        self._skipped = skipped

    def __missing__(self, token_id: int) -> str | bytes | None:
        token = self._hf.id_to_token(token_id)
        if token is None:
            return None
        piece = None if token in self._skipped else self._make(token)
        self[token_id] = piece
        return piece

    def _make(self, token: str) -> str | bytes:
        if self._decoding.kind == "byte_level":
            try:
                raw = bytes([_ALPHABET[char] for char in token])
            except KeyError:  # an added token with a character outside the alphabet stands for itself
                return token
            try:
                return raw.decode("utf-8")
            except UnicodeDecodeError:
                return raw
        for pattern, content in self._decoding.replacements:
            token = token.replace(pattern, content)
        if self._decoding.has_byte_tokens and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(match[1], 16)])
        return token
