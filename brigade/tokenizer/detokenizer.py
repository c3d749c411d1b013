"""Ids to text, one id at a time.

For every detokenizer: the deltas of `push`, then `finish`, joined, are `Tokenizer.decode` of the same ids. A delta
is whole characters; what may still turn out differently is held back until it cannot, or until `finish`.

One exception. The tokenizers library decodes a run of byte tokens (`<0xNN>`) as a whole: one bad byte makes every byte
of its run a U+FFFD, those of good characters before it too. Holding a run back until it ends would delay every line
break that is a byte token. So the characters of a run are sent as soon as they are whole, and where a later byte of
the same run is bad, those sent stay characters; its other bytes are U+FFFD, as in the library.

A stream that continues a prompt says what `decode(prompt + output)` has after the prompt: it starts in the state in
which pushing the prompt's ids would leave it (`follow`). So the first token keeps its space, and a character whose
bytes began in the prompt is whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from codecs import utf_8_decode
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

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

    @abstractmethod
    def follow(self, prompt_ids: Sequence[int]) -> None:
        """Before the first push: get to the state after pushing these ids. Only the end of a prompt is looked at."""

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

    def follow(self, prompt_ids: Sequence[int]) -> None:
        # An open character has at most three bytes, and decoding finds a character's first byte from anywhere.
        start, size = len(prompt_ids), 0
        while start and size < 3 and type(piece := self._pieces[prompt_ids[start - 1]]) is not str:
            start -= 1
            size += len(piece or b"")
        self.push_many(prompt_ids[start:])


class ByteRun:
    """The byte tokens since the last token of text, as UTF-8: whole, open (a character has begun), or bad.

    Invariant: `open` is the bytes not yet taken, at most three unless the run is bad; once bad, a run stays so.
    """

    __slots__ = ("bad", "open")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.open, self.bad = b"", False

    def push(self, piece: bytes) -> str:
        """The characters that these bytes complete."""
        self.open += piece
        if self.bad:
            return ""
        try:
            text, used = utf_8_decode(self.open, "strict", False)
        except UnicodeDecodeError:
            self.bad = True
            return ""
        self.open = self.open[used:]
        return text


class ByteFallbackDetokenizer(Detokenizer):
    """Tokens are text, but for runs of byte tokens.

    Invariant: `_lead` is how many leading characters may still be stripped, and is zero once any text was returned.
    """

    __slots__ = ("_lead", "_pieces", "_run", "_strip_char")

    def __init__(self, pieces: Pieces, decoding: Decoding) -> None:
        self._pieces = pieces
        self._run = ByteRun()
        self._strip_char = decoding.strip_char
        self._lead = decoding.strip_count

    def push(self, token_id: int) -> str:
        text = self._pieces[token_id]
        run = self._run
        if type(text) is bytes:
            text = run.push(text)
            if run.bad:
                text, run.open = "\ufffd" * len(run.open), b""
        elif text is None:
            return ""
        elif run.open or run.bad:
            text = self._end_run() + text
        return self._strip(text) if self._lead else text

    def finish(self) -> str:
        return self._strip(self._end_run())

    def follow(self, prompt_ids: Sequence[int]) -> None:
        done = 0
        while self._lead and done < len(prompt_ids):
            self.push(prompt_ids[done])
            done += 1
        start = _last_run(self._pieces, prompt_ids)
        if start > done:
            self._run.reset()
        self.push_many(prompt_ids[max(start, done) :])

    def _end_run(self) -> str:
        text = "\ufffd" * len(self._run.open)
        self._run.reset()
        return text

    def _strip(self, text: str) -> str:
        while self._lead and text.startswith(self._strip_char):
            text = text[1:]
            self._lead -= 1
        if text:
            self._lead = 0
        return text


def _last_run(pieces: Pieces, ids: Sequence[int]) -> int:
    """Where the byte tokens begin that `ids` ends with; tokens that are skipped do not end a run."""
    start = len(ids)
    while start and type(pieces[ids[start - 1]]) is not str:
        start -= 1
    return start


class WindowDetokenizer(Detokenizer):
    """Any other way of decoding: ask the tokenizer to decode the last few ids, and return what is new.

    Invariant: the first `_sent` characters of decode(`_window`) are the end of what was returned. The window always
    keeps ids from before them, so that what a decoder does to the very first token happens to text already sent.

    The last run of byte tokens begins at character `_run_start` of decode(`_window`), and its first `_run_sent` bytes were
    sent. Where it turns out bad, decode has a U+FFFD in the place of each byte, so that `_sent` is counted anew.
    """

    __slots__ = ("_decode", "_pieces", "_run", "_run_sent", "_run_start", "_sent", "_window")

    CONTEXT = 16
    LONGEST = 48

    def __init__(self, pieces: Pieces, decode: Callable[[list[int]], str]) -> None:
        self._pieces = pieces
        self._decode = decode
        self._window: list[int] = []
        self._sent = 0
        self._run = ByteRun()
        self._run_start = self._run_sent = 0

    def push(self, token_id: int) -> str:
        piece = self._pieces[token_id]
        if piece is None:  # must not enter the window: a window of nothing would make its successor a first token
            return ""
        self._window.append(token_id)
        if type(piece) is bytes:
            whole = self._run.push(piece)
            if not whole:
                return ""
            self._run_sent += len(whole.encode())
            text = self._decode(self._window)
            certain = len(text)
        else:
            self._end_run()
            text = self._decode(self._window)
            self._run_start, certain = len(text), self._certain(text)
        delta = text[self._sent : certain]
        self._sent = max(self._sent, certain)
        if self._sent == len(text):
            self._trim()
        return delta

    def finish(self) -> str:
        self._end_run()
        text = self._decode(self._window)[self._sent :]
        self._sent += len(text)
        return text

    def follow(self, prompt_ids: Sequence[int]) -> None:
        pieces = self._pieces
        start = _last_run(pieces, prompt_ids)
        before = (i for i in reversed(prompt_ids[:start]) if pieces[i] is not None)
        self._window = list(islice(before, self.CONTEXT))[::-1]
        text = self._decode(self._window)
        self._run_start, self._sent = len(text), self._certain(text)
        run_ids = [i for i in prompt_ids[start:] if pieces[i] is not None]
        self._run_sent = sum(len(self._run.push(pieces[i]).encode()) for i in run_ids)
        if self._run_sent:
            self._sent = len(self._decode(self._window + run_ids[: self._run_sent]))
        self._window += run_ids
        self._trim()

    def _certain(self, text: str) -> int:
        """How much of decode(`_window`) can be sent: a U+FFFD at the end may be a character that is not yet whole, unless
        the last token is spelled so."""
        return len(text) - (text.endswith("\ufffd") and not self._pieces[self._window[-1]].endswith("\ufffd"))

    def _end_run(self) -> None:
        if self._run_sent and self._run.open:
            self._sent = self._run_start + self._run_sent
        self._run.reset()
        self._run_sent = 0

    def _trim(self) -> None:
        """Drop old ids from a window that is too long. A run's characters stay whole, and a bad run stays as it is."""
        if len(self._window) <= self.LONGEST or self._run.bad:
            return
        pieces, cut = self._pieces, len(self._window) - self.CONTEXT
        while cut and type(piece := pieces[self._window[cut]]) is bytes and piece[0] & 0xC0 == 0x80:
            cut -= 1
        window = self._window = self._window[cut:]
        start, end = _last_run(pieces, window), len(window) - len(self._run.open)
        self._run_start, self._run_sent = len(self._decode(window[:start])), end - start
        self._sent = len(self._decode(window[:end]))
