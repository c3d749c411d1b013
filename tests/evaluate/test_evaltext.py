"""Which tokens are scored, and which bytes they stand for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers

from brigade.checkpoint.load import EMBEDDED
from brigade.errors import RequestError
from brigade.evaluate.evaltext import check_same_ids, encode_text, read_text
from brigade.tokenizer import Tokenizer


def embedded(bos: int | None = 0, adds_bos: bool = False) -> Tokenizer:
    inner = tokenizers.Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
    if adds_bos:
        name = inner.id_to_token(0)
        inner.post_processor = tokenizers.processors.TemplateProcessing(single=f"{name} $A {name}", special_tokens=[(name, 0)])
    return Tokenizer(inner, bos, (0,))


TEXT = "import os\r\nprint('grün ☃')\n"


def test_with_bos_every_byte_counts() -> None:
    text = encode_text(TEXT, embedded())
    assert text.ids == (0, *embedded().encode(TEXT)) and text.starts_with_bos and not text.every_window_starts
    assert text.scored_bytes == text.num_bytes == len(TEXT.encode()) and text.is_restored
    assert "every byte is counted" in text.first_token


def test_without_bos_the_first_tokens_bytes_are_left_out() -> None:
    text = encode_text(TEXT, embedded(None))
    first = embedded().token_bytes(text.ids[0])
    assert text.ids == tuple(embedded().encode(TEXT)) and first == b"import"
    assert text.num_bytes - text.scored_bytes == 6 and "its 6 bytes are not counted" in text.first_token


def test_what_the_tokenizer_adds_is_neither_doubled_nor_scored() -> None:
    text = encode_text(TEXT, embedded(adds_bos=True))
    assert text.ids == (0, *embedded().encode(TEXT)) and text.every_window_starts


def test_the_file_is_read_byte_for_byte(tmp_path: Path) -> None:
    file = tmp_path / "t.txt"
    file.write_bytes(TEXT.encode())
    assert read_text(file) == TEXT
    file.write_bytes(b"ab\xff")
    with pytest.raises(RequestError, match="not UTF-8 .byte 0xff at 2"):
        read_text(file)
    file.write_bytes(b"")
    with pytest.raises(RequestError, match=r"t\.txt is empty"):
        read_text(file)


def test_nothing_to_score_is_refused() -> None:
    for text, tokenizer in (("", embedded()), ("x", embedded(None))):
        with pytest.raises(RequestError, match="give a longer text"):
            encode_text(text, tokenizer)


def test_models_of_other_ids_cannot_be_compared() -> None:
    own = embedded()

    def refused(other: Tokenizer, words: str) -> None:
        with pytest.raises(RequestError, match=words):
            check_same_ids(encode_text(TEXT, own), encode_text(TEXT, other), own, other)

    check_same_ids(encode_text(TEXT, own), encode_text(TEXT, embedded()), own, embedded())
    refused(embedded(None), "from token 0 on")
    inner = tokenizers.Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
    inner.add_tokens(["<more>"])
    refused(Tokenizer(inner, 0, (0,)), "4096 and 4097 ids")
    # A vocabulary in which two words that the text does not use have changed places.
    state = json.loads((EMBEDDED / "tokenizer.json").read_text())
    words = state["model"]["vocab"]
    used = set(own.encode(TEXT))
    a, b = [w for w, i in words.items() if i > 4000 and i not in used][:2]
    words[a], words[b] = words[b], words[a]
    swapped = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(state)), 0, (0,))
    refused(swapped, "to one model and")
