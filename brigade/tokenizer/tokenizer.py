"""Text and ids: a folder's tokenizer, its special ids, its chat template."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from brigade.errors import CheckpointError, RequestError, in_one_line
from brigade.tokenizer.chat_template import ChatTemplate
from brigade.tokenizer.detokenizer import ByteDetokenizer, ByteFallbackDetokenizer, Detokenizer, WindowDetokenizer
from brigade.tokenizer.folder import TokenizerFolder
from brigade.tokenizer.pieces import Decoding, Pieces

LONG = 1000  # characters
MOST_TABLES = 8  # of pieces, one for each choice of special tokens that are kept
PANIC = "PanicException"  # of the tokenizers library: no Exception in Python, though it concerns one text alone


class Tokenizer:
    """The `tokenizers` library's tokenizer of one model, and what the model's folder says about using it.

    `special_tokens` are the names that a chat template may write, such as {"bos_token": "<s>"}; by default those of
    `bos_id` and the first of `eos_ids`.
    """

    def __init__(
        self,
        inner: tokenizers.Tokenizer,
        bos_id: int | None = None,
        eos_ids: Sequence[int] = (),
        chat_template: str | Mapping[str, str] | None = None,
        special_tokens: Mapping[str, str] | None = None,
    ) -> None:
        self._inner = inner
        self.bos_id = bos_id
        self.eos_ids = tuple(eos_ids)
        self.vocab_size: int = inner.get_vocab_size(with_added_tokens=True)
        self._templates = {"default": chat_template} if isinstance(chat_template, str) else dict(chat_template or {})
        if special_tokens is None:
            ids = {"bos_token": bos_id, "eos_token": self.eos_ids[0] if self.eos_ids else None}
            texts = {name: None if i is None else inner.id_to_token(i) for name, i in ids.items()}
            special_tokens = {name: text for name, text in texts.items() if text is not None}
        self._special_tokens = dict(special_tokens)
        self._pieces: dict[frozenset[str], Pieces] = {}

    @classmethod
    def from_folder(cls, path: str | Path) -> Tokenizer:
        """The tokenizer of a Hugging Face folder: tokenizer.json, or vocab.json with merges.txt.

        The ids that end a text are those of generation_config.json, else the tokenizer's own `eos_token`, else those
        of config.json. The one that begins it: the tokenizer's own `bos_token`; where its settings do not mention
        one at all, generation_config.json's or config.json's.
        """
        folder = TokenizerFolder(Path(path))
        inner = folder.load()

        def own_id(name: str) -> int | None:
            text = folder.special_tokens.get(name)
            if text is None:
                return None
            token_id = inner.token_to_id(text)
            if token_id is None:
                raise CheckpointError(
                    f"{folder.path} names {text!r} as its {name}, which its vocabulary does not hold; "
                    "mend tokenizer_config.json or fetch the files again"
                )
            return token_id

        bos_id, eos_id = own_id("bos_token"), own_id("eos_token")
        if bos_id is None and "bos_token" not in folder.settings:
            bos_id = next(iter(folder.token_ids("bos") or ()), None)
        eos_ids = folder.generation_ids("eos")
        if eos_ids is None:
            eos_ids = (folder.token_ids("eos") or ()) if eos_id is None else (eos_id,)
        return cls(inner, bos_id, eos_ids, folder.chat_templates(), folder.special_tokens)

    @classmethod
    def of_model(cls, folder: Path | None) -> Tokenizer | None:
        """From the folder of a model's tokenizer; None for a model that has none."""
        return None if folder is None else cls.from_folder(folder)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        try:
            if isinstance(text, str) and len(text) > LONG:  # of these two only the second lets other threads run meanwhile
                return self._inner.encode_batch([text], add_special_tokens=add_special_tokens)[0].ids
            return self._inner.encode(text, add_special_tokens=add_special_tokens).ids
        except (TypeError, UnicodeEncodeError) as error:
            if not isinstance(text, str):
                raise RequestError(f"a prompt of type {type(text).__name__} is no text; give a str or token ids") from error
            at = next((at for at, char in enumerate(text) if "\ud800" <= char <= "\udfff"), None)
            if at is None:
                raise
            raise RequestError(
                f"the text has U+{ord(text[at]):04X} at position {at}, half of a surrogate pair and no character; remove it"
            ) from error
        except BaseException as error:
            if type(error).__name__ != PANIC:
                raise
            raise RequestError(f"the tokenizer cannot read this text ({in_one_line(error)})") from error

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of ids. Ids that the vocabulary does not hold (a model may be padded) are left out."""
        try:
            return self._inner.decode(list(ids), skip_special_tokens=skip_special_tokens)
        except OverflowError as error:
            wrong = next(i for i in ids if not 0 <= i < 2**32)
            raise RequestError(f"token id {wrong} is out of range; ids go from 0 to {self.vocab_size - 1}") from error
        except BaseException as error:
            if type(error).__name__ != PANIC:
                raise
            raise RequestError(f"the tokenizer has no text for these tokens ({in_one_line(error)})") from error

    @cached_property
    def longest_token(self) -> int:
        """Characters, as the vocabulary writes them: a byte that is no character of its own counts as one."""
        return max(map(len, self._inner.get_vocab()), default=0)

    def token_text(self, token_id: int) -> str:
        """How one id reads on its own, for logprobs; bytes that are no character by themselves show as U+FFFD."""
        return self.token_bytes(token_id).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """What one id adds in the middle of a text, special tokens included; nothing for an id that is not known."""
        piece = self._pieces_with_special[token_id]
        if isinstance(piece, str) and self._decoding.kind == "general":
            return self._in_the_middle(token_id).encode()
        return piece.encode() if isinstance(piece, str) else piece or b""

    @property
    def adds_bytes(self) -> bool:
        """Whether the text of tokens is that of each, one behind the other (`token_bytes`), and does not depend on neighbours."""
        return self._decoding.kind != "general"

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Those that are left out of a text."""
        return frozenset(self.special_token_ids.values())

    def _in_the_middle(self, token_id: int) -> str:
        # Decoders treat a first token apart (no space before it), and some join equal neighbours: so put another before.
        before = 0 if token_id != 0 else 1
        text = self.decode([before, token_id], skip_special_tokens=False)
        return text[len(self.decode([before], skip_special_tokens=False)) :]

    def detokenizer(self, skip_special_tokens: bool = True, after: Sequence[int] = (), keep: Iterable[str] = ()) -> Detokenizer:
        """A fresh stream from ids to text deltas; `after` are the ids of the prompt that it continues. `keep`: special tokens that
        are written although the others are not, such as the marks of tool calls."""
        stream = self._new_detokenizer(self._pieces_but(frozenset(keep)) if skip_special_tokens else self._pieces_with_special)
        if len(after):
            stream.follow(after)
        return stream

    def _new_detokenizer(self, pieces: Pieces) -> Detokenizer:
        match self._decoding.kind:
            case "byte_level":
                return ByteDetokenizer(pieces)
            case "byte_fallback":
                return ByteFallbackDetokenizer(pieces, self._decoding)
            case _:
                # The pieces leave out what is to be skipped, so that here nothing is.
                return WindowDetokenizer(pieces, lambda ids: self.decode(ids, skip_special_tokens=False))

    @cached_property
    def _decoding(self) -> Decoding:
        return Decoding.of(self._inner)

    def _pieces_but(self, keep: frozenset[str]) -> Pieces:
        """Without the special tokens, except for some; one table for each choice of them."""
        special = frozenset(self.special_token_ids)
        keep &= special
        if keep not in self._pieces:
            while len(self._pieces) >= MOST_TABLES:
                self._pieces.pop(next(iter(self._pieces)))
            self._pieces[keep] = Pieces(self._inner, self._decoding, special - keep)
        return self._pieces[keep]

    @cached_property
    def _pieces_with_special(self) -> Pieces:
        return Pieces(self._inner, self._decoding, frozenset())

    @property
    def has_chat_template(self) -> bool:
        return bool(self._templates)

    def apply_chat_template(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **extra: Any) -> str:
        """The prompt of a conversation; `extra` are variables that the template reads, such as `tools`.

        The text brings its own special tokens: encode it with `add_special_tokens=False`.
        """
        return self.chat.render(list(messages), add_generation_prompt, **extra)

    def with_template(self, chat_template: str) -> Tokenizer:
        """The same with another chat template."""
        return Tokenizer(self._inner, self.bos_id, self.eos_ids, chat_template, self._special_tokens)

    @cached_property
    def chat(self) -> ChatTemplate:
        if not self._templates:
            raise RequestError("this model has no chat template; give a prompt instead of messages", "messages")
        return ChatTemplate(self._templates, self._special_tokens)

    @cached_property
    def special_token_ids(self) -> dict[str, int]:
        """Every special token's text and id. The text of such a token is shown only where that is asked for."""
        return {token.content: i for i, token in self._inner.get_added_tokens_decoder().items() if token.special}
