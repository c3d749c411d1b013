"""What a model's folder says about its tokenizer: the files, which of them wins, and what is wrong with them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from brigade.errors import CheckpointError

_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); fetch the file again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__} where settings are expected; fetch the file again")
    return content


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as text ({error}); fetch the file again") from error


@dataclass(frozen=True)
class TokenizerFolder:
    path: Path

    @cached_property
    def settings(self) -> dict[str, Any]:
        return _read_json(self.path / "tokenizer_config.json")

    @cached_property
    def special_tokens(self) -> dict[str, str]:
        """`bos_token` and its like: tokenizer_config.json, where it is silent special_tokens_map.json."""
        merged = _read_json(self.path / "special_tokens_map.json") | self.settings
        texts = {name: merged.get(name) for name in _SPECIAL_NAMES}
        texts = {name: text.get("content") if isinstance(text, dict) else text for name, text in texts.items()}
        return {name: text for name, text in texts.items() if isinstance(text, str)}

    def token_ids(self, name: str) -> tuple[int, ...] | None:
        """What generation_config.json, else config.json, gives for `bos` or `eos`; None where neither says anything."""
        key = f"{name}_token_id"
        for file in ("generation_config.json", "config.json"):
            ids = self._ids_of(file, key)
            if ids is not None:
                return ids
        return None

    def generation_ids(self, name: str) -> tuple[int, ...] | None:
        return self._ids_of("generation_config.json", f"{name}_token_id")

    def _ids_of(self, file: str, key: str) -> tuple[int, ...] | None:
        content = _read_json(self.path / file)
        found = content.get(key)
        if found is None and isinstance(content.get("text_config"), dict):  # a text model inside a larger one
            found = content["text_config"].get(key)
        if found is None:
            return None
        ids = found if isinstance(found, list) else [found]
        if any(type(i) is not int or i < 0 for i in ids):
            raise CheckpointError(f"{self.path / file} has {key} {found!r}; give a token id or a list of them")
        return tuple(ids)

    def chat_templates(self) -> dict[str, str]:
        """Name -> template. A file of its own wins over the one in tokenizer_config.json."""
        template: Any
        if (self.path / "chat_template.jinja").exists():
            template = _read_text(self.path / "chat_template.jinja")
        else:
            template = self.settings.get("chat_template")
            if template is None:
                template = _read_json(self.path / "chat_template.json").get("chat_template")
        if template is None:
            return {}
        if isinstance(template, str):
            return {"default": template}
        try:
            return {str(entry["name"]): str(entry["template"]) for entry in template}
        except (TypeError, KeyError) as error:
            raise CheckpointError(
                f"chat_template of {self.path} is neither a text nor a list of named texts; mend tokenizer_config.json"
            ) from error

    def files(self) -> list[Path]:
        """What the tokenizer and its chat template are read from. A file that another one outdoes is none of them."""
        whole = (self.path / "tokenizer.json").exists()
        own = ("tokenizer.json",) if whole else ("vocab.json", "merges.txt", "added_tokens.json")
        chat = ("chat_template.jinja",) if (self.path / "chat_template.jinja").exists() else ("chat_template.json",)
        names = (*own, "tokenizer_config.json", "special_tokens_map.json", *chat)
        return [self.path / name for name in names if (self.path / name).exists()]

    def load(self) -> tokenizers.Tokenizer:
        whole, vocab, merges = (self.path / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
        try:
            if whole.exists():
                inner = tokenizers.Tokenizer.from_file(str(whole))
            elif vocab.exists() and merges.exists():
                inner = self._load_loose(vocab, merges)
            else:
                raise CheckpointError(
                    f"{self.path} has neither tokenizer.json nor vocab.json with merges.txt; "
                    "prompts can still be given as token ids, or add the files"
                )
        except CheckpointError:
            raise
        except Exception as error:  # the library raises bare exceptions for malformed files
            reason = " ".join(str(error).split())
            raise CheckpointError(f"the tokenizer in {self.path} cannot be read ({reason}); fetch its files again") from error
        # Files keep the truncation and padding of training; a prompt must arrive as it was given.
        inner.no_truncation()
        inner.no_padding()
        return inner

    def _load_loose(self, vocab: Path, merges: Path) -> tokenizers.Tokenizer:
        """Byte-level BPE in two files, as GPT-2 and OPT are published, with what the settings say about it."""
        inner = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(str(vocab), str(merges)))
        prefix = bool(self.settings.get("add_prefix_space", False))
        inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=prefix)
        inner.decoder = tokenizers.decoders.ByteLevel()
        self._add_tokens(inner)
        self._add_special_rule(inner)
        return inner

    def _add_tokens(self, inner: tokenizers.Tokenizer) -> None:
        added = {i: text for text, i in _read_json(self.path / "added_tokens.json").items()}
        described = self.settings.get("added_tokens_decoder") or {}
        added |= {int(i): entry for i, entry in described.items()}
        for wanted, entry in sorted(added.items()):
            fields = dict(entry) if isinstance(entry, dict) else {"content": entry}
            fields.pop("__type", None)
            token = tokenizers.AddedToken(**fields)
            (inner.add_special_tokens if token.special else inner.add_tokens)([token])
            got = inner.token_to_id(token.content)
            if got != wanted:
                raise CheckpointError(
                    f"{self.path} gives the added token {token.content!r} the id {wanted}, but with its "
                    f"vocab.json it is {got}; fetch its files again"
                )
        special = dict.fromkeys(self.special_tokens.values())
        if not special:  # GPT-2 is published without settings; its one special token is known by name
            special = dict.fromkeys(name for name in ("<|endoftext|>",) if inner.token_to_id(name) is not None)
        inner.add_special_tokens(list(special))

    def _add_special_rule(self, inner: tokenizers.Tokenizer) -> None:
        """`add_bos_token` and `add_eos_token`: what encoding puts around a text."""
        around = {}
        for name in ("bos", "eos"):
            if not self.settings.get(f"add_{name}_token"):
                continue
            text = self.special_tokens.get(f"{name}_token")
            if text is None:
                raise CheckpointError(
                    f"tokenizer_config.json of {self.path} asks for add_{name}_token but names no {name}_token; name it there"
                )
            around[name] = text
        if around:
            inner.post_processor = tokenizers.processors.TemplateProcessing(
                single=[*([around["bos"]] if "bos" in around else []), "$A", *([around["eos"]] if "eos" in around else [])],
                special_tokens=[(text, inner.token_to_id(text)) for text in dict.fromkeys(around.values())],
            )
