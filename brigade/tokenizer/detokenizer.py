"""Ids to text as they come, never splitting a character; the deltas together equal `Tokenizer.decode` of the ids."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Protocol

_utf8 = codecs.getincrementaldecoder("utf-8")


class Detokenizer(Protocol):
    def push(self, token_id: int) -> str:
        """The text this id completes."""

    def finish(self) -> str:
        """What is left when nothing more comes; incomplete bytes become U+FFFD."""


def byte_alphabet() -> dict[str, int]:
    """The printable character that stands for each byte in a byte-level vocabulary, backwards."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {chr(byte): byte for byte in kept}
    others = [byte for byte in range(256) if byte not in set(kept)]
    return alphabet | {chr(256 + place): byte for place, byte in enumerate(others)}


class ByteDetokenizer:
    """For vocabularies whose every id stands for fixed bytes: one table look-up an id."""

    def __init__(self, table: Sequence[bytes | None], strip_first_space: bool = False) -> None:
        self._table = table
        self._decoder = _utf8("replace")
        self._strip = strip_first_space

    def push(self, token_id: int) -> str:
        piece = self._table[token_id]
        if not piece:
            return ""
        if self._strip:
            self._strip = False
            if piece[:1] == b" ":
                piece = piece[1:]
        return self._decoder.decode(piece)

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class WindowDetokenizer:
    """For any other decoder: decode a short window twice, with and without the new id, and send the difference.

    A word-piece decoder may still change the text at the end of what it was given; text is sent once the window decodes to
    something that goes on from what was sent and does not end in a replacement character.
    """

    def __init__(self, decode) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._sent = ""

    def push(self, token_id: int) -> str:
        self._ids.append(token_id)
        text = self._decode(self._ids)
        if text.endswith("�") or not text.startswith(self._sent):
            return ""
        delta, self._sent = text[len(self._sent) :], text
        return delta

    def finish(self) -> str:
        text = self._decode(self._ids)
        delta, self._sent = text[len(self._sent) :] if text.startswith(self._sent) else "", text
        return delta
