"""Text and ids: a folder's tokenizer, its special ids, its chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from brigade.errors import CheckpointError, RequestError
from brigade.tokenizer.chat_template import ChatTemplate
from brigade.tokenizer.detokenizer import ByteDetokenizer, Detokenizer, WindowDetokenizer, byte_alphabet


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); fetch the file again") from error
    return content if isinstance(content, dict) else {}


def _token_text(entry: Any) -> str | None:
    return entry.get("content") if isinstance(entry, Mapping) else entry


class Tokenizer:
    def __init__(
        self,
        inner: tokenizers.Tokenizer,
        bos_id: int | None = None,
        eos_ids: Sequence[int] = (),
        chat_template: str | None = None,
        add_bos: bool = False,
    ) -> None:
        self._inner, self.bos_id, self.eos_ids = inner, bos_id, tuple(eos_ids)
        self._template_source, self._add_bos = chat_template, add_bos
        self.vocab_size = inner.get_vocab_size(with_added_tokens=True)

    @classmethod
    def from_folder(cls, path: str | Path) -> Tokenizer:
        folder = Path(path)
        settings = _read_json(folder / "tokenizer_config.json")
        specials = _read_json(folder / "special_tokens_map.json") | settings
        model = _read_json(folder / "config.json")
        generation = _read_json(folder / "generation_config.json")
        inner, whole = _load_inner(folder)

        def special(name: str) -> int | None:
            text = _token_text(specials.get(f"{name}_token"))
            if text is not None:
                return inner.token_to_id(text)
            found = generation.get(f"{name}_token_id", model.get(f"{name}_token_id"))
            return found if isinstance(found, int) else None

        eos = generation.get("eos_token_id")
        if eos is None:
            eos = special("eos")
        eos_ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
        # A whole tokenizer.json adds its own beginning; two loose files say so in their settings.
        add_bos = not whole and bool(settings.get("add_bos_token"))
        return cls(inner, special("bos"), eos_ids, _chat_template(folder, settings), add_bos)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        try:
            ids = self._inner.encode(text, add_special_tokens=add_special_tokens).ids
        except UnicodeEncodeError as error:
            raise RequestError(f"the prompt holds {text[error.start]!r}, which is no character; remove it") from error
        return [self.bos_id, *ids] if add_special_tokens and self._add_bos and self.bos_id is not None else ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return self._inner.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def token_text(self, token_id: int) -> str:
        """How one id reads on its own, for logprobs."""
        return self.token_bytes(token_id).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        table = self._tables[False]
        if table is not None:
            return table[token_id] or b""
        return self.decode([token_id], skip_special_tokens=False).encode()

    def detokenizer(self, skip_special_tokens: bool = True) -> Detokenizer:
        table = self._tables[skip_special_tokens]
        if table is None:
            return WindowDetokenizer(lambda ids: self.decode(ids, skip_special_tokens))
        return ByteDetokenizer(table, self._strips_first_space)

    @property
    def has_chat_template(self) -> bool:
        return self._template_source is not None

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **extra: Any
    ) -> str:
        if self._template_source is None:
            raise RequestError("this model has no chat template; give a prompt instead of messages")
        return self._chat.render(messages, add_generation_prompt, **extra)

    @cached_property
    def _chat(self) -> ChatTemplate:
        assert self._template_source is not None
        names = {"bos_token": self.bos_id, "eos_token": self.eos_ids[0] if self.eos_ids else None}
        return ChatTemplate(
            self._template_source,
            {name: "" if i is None else self._inner.id_to_token(i) or "" for name, i in names.items()},
        )

    @cached_property
    def _decoder_kind(self) -> dict[str, Any]:
        return json.loads(self._inner.to_str()).get("decoder") or {}

    @property
    def _strips_first_space(self) -> bool:
        steps = self._decoder_kind.get("decoders", ())
        return any(step["type"] == "Strip" and step.get("start") == 1 for step in steps)

    @cached_property
    def _tables(self) -> dict[bool, list[bytes | None] | None]:
        """For skipping special ids or not: the bytes of every id, where the decoder is one of the two known kinds."""
        kind = self._decoder_kind.get("type")
        steps = [step["type"] for step in self._decoder_kind.get("decoders", ())]
        if kind == "ByteLevel" or (kind == "Sequence" and steps == ["ByteLevel"]):
            alphabet = byte_alphabet()

            def read(text: str) -> bytes:
                # A text with a character outside the alphabet was added as it is, and stands for itself.
                if all(c in alphabet for c in text):
                    return bytes(alphabet[c] for c in text)
                return text.encode()

        elif kind == "Sequence" and steps in (["Replace", "ByteFallback", "Fuse", "Strip"], ["Replace", "ByteFallback", "Fuse"]):

            def read(text: str) -> bytes:
                if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
                    return bytes([int(text[3:5], 16)])
                return text.replace("▁", " ").encode()

        else:
            return {True: None, False: None}
        special = {i for i, token in self._inner.get_added_tokens_decoder().items() if token.special}
        size = max(self._inner.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        texts = [self._inner.id_to_token(i) for i in range(size)]
        every = [None if text is None else read(text) for text in texts]
        return {False: every, True: [None if i in special else piece for i, piece in enumerate(every)]}


def _load_inner(folder: Path) -> tuple[tokenizers.Tokenizer, bool]:
    whole, vocab, merges = folder / "tokenizer.json", folder / "vocab.json", folder / "merges.txt"
    try:
        if whole.exists():
            return tokenizers.Tokenizer.from_file(str(whole)), True
        if vocab.exists() and merges.exists():
            inner = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(str(vocab), str(merges)))
            inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
            inner.decoder = tokenizers.decoders.ByteLevel()
            for name in ("<|endoftext|>", "</s>", "<s>", "<pad>"):
                if inner.token_to_id(name) is not None:
                    inner.add_special_tokens([name])
            return inner, False
    except Exception as error:  # the library raises bare exceptions for malformed files
        raise CheckpointError(f"the tokenizer in {folder} cannot be read ({error}); fetch its files again") from error
    raise CheckpointError(
        f"{folder} has neither tokenizer.json nor vocab.json with merges.txt; give prompts as token ids, or add the files"
    )


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    loose = folder / "chat_template.jinja"
    if loose.exists():
        return loose.read_text(encoding="utf-8")
    template = settings.get("chat_template") or _read_json(folder / "chat_template.json").get("chat_template")
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template}
        return named.get("default") or next(iter(named.values()), None)
    return template
