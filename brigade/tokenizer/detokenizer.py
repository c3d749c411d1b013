"""Ids to text, one id at a time.

For every detokenizer: the deltas of `push`, then `finish`, joined, are `Tokenizer.decode` of the same ids. A delta
is whole characters; what may still turn out differently is held back until it cannot, or until `finish`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from codecs import utf_8_decode
from collections.abc import Callable, Iterable, Sequence

from brigade.tokenizer.pieces import Decoding, Pieces


class Detokenizer(ABC):
    """The text of one stream of ids. Get one from `Tokenizer.detokenizer()`; it serves one stream, once."""

    __slots__ = ()

    @abstractmethod
    def push(self, token_id: int) -> str:
        """The text that this id makes certain; often one token's worth, sometimes none."""

    @abstractmethod
    def finish(self) -> str:
        """The rest; bytes that never became a character are U+FFFD."""

    def push_many(self, token_ids: Iterable[int]) -> str:
        return "".join(map(self.push, token_ids))


class ByteDetokenizer(Detokenizer):
    """Every token is bytes, and the text is their UTF-8.

    Invariant: `_open` is the start of a character (at most three bytes), and everything before it was returned.
    """

    __slots__ = ("_open", "_pieces")

    def __init__(self, pieces: Pieces | Sequence[str | bytes | None]) -> None:
        self._pieces = pieces
        self._open = b""

    def push(self, token_id: int) -> str:
        piece = self._pieces[token_id]
        if type(piece) is str:
            if not self._open:
                return piece
            piece = piece.encode()
        elif piece is None:
            return ""
        data = self._open + piece
        text, used = utf_8_decode(data, "replace", False)
        self._open = data[used:]
        return text

    def finish(self) -> str:
        text, self._open = self._open.decode("utf-8", "replace"), b""
        return text


class ByteFallbackDetokenizer(Detokenizer):
    """Tokens are text, but for runs of byte tokens.

    A run is UTF-8 as a whole or not at all: one bad byte makes every byte of its run a U+FFFD, those of good
    characters before it too. So a run is held back until a token of text ends it.

    Invariant: `_run` is the byte tokens since the last token of text; `_lead` is how many leading characters may
    still be stripped, and is zero once any text was returned.
    """

    __slots__ = ("_lead", "_pieces", "_run", "_strip_char")

    def __init__(self, pieces: Pieces, decoding: Decoding) -> None:
        self._pieces = pieces
        self._run = bytearray()
        self._strip_char = decoding.strip_char
        self._lead = decoding.strip_count

    def push(self, token_id: int) -> str:
        piece = self._pieces[token_id]
        if type(piece) is str:
            if self._run:
                piece = self._end_run() + piece
            return self._strip(piece) if self._lead else piece
        if piece is not None:
            self._run += piece
        return ""

    def finish(self) -> str:
        return self._strip(self._end_run())

    def _end_run(self) -> str:
        try:
            text = self._run.decode("utf-8")
        except UnicodeDecodeError:
            text = "\ufffd" * len(self._run)
        self._run.clear()
        return text

    def _strip(self, text: str) -> str:
        while self._lead and text.startswith(self._strip_char):
            text = text[1:]
            self._lead -= 1
        if text:
            self._lead = 0
        return text


class WindowDetokenizer(Detokenizer):
    """Any other way of decoding: ask the tokenizer to decode the last few ids, and return what is new.

    Invariant: the first `_sent` characters of decode(`_window`) are the end of what was returned. The window always
    keeps ids from before them, so that what a decoder does to the very first token happens to text already sent.
    """

    __slots__ = ("_decode", "_pieces", "_sent", "_window")

    CONTEXT = 16
    LONGEST = 48

    def __init__(self, pieces: Pieces, decode: Callable[[list[int]], str]) -> None:
        self._pieces = pieces
        self._decode = decode
        self._window: list[int] = []
        self._sent = 0

    def push(self, token_id: int) -> str:
        piece = self._pieces[token_id]
        if piece is None:  # must not enter the window: a window of nothing would make its successor a first token
            return ""
        self._window.append(token_id)
        if type(piece) is bytes:  # the run of byte tokens decides together, see ByteFallbackDetokenizer
            return ""
        text = self._decode(self._window)
        certain = len(text) - text.endswith("\ufffd")  # the last one may be a character that is not yet whole
        delta = text[self._sent : certain]
        self._sent = max(self._sent, certain)
        if len(self._window) > self.LONGEST and self._sent == len(text):
            self._window = self._window[-self.CONTEXT :]
            self._sent = len(self._decode(self._window))
        return delta

    def finish(self) -> str:
        text = self._decode(self._window)[self._sent :]
        self._sent += len(text)
        return text
