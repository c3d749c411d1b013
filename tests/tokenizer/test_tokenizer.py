"""Deltas add up to the decoded text, characters stay whole, and stop strings never leak."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from brigade.errors import CheckpointError, RequestError
from brigade.tokenizer import StopStrings, Tokenizer

TEXT = ["def fibonacci(n): return n", "Grüße aus Köln – 你好, 世界! 🙂🙃", "naïve café", "a b  c\n\td"] * 4


def byte_level() -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=330, special_tokens=["<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        ),
    )
    return inner


def sentencepiece_like() -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    inner.train_from_iterator(
        ["def fibonacci return"] * 4, trainers.BpeTrainer(vocab_size=300, special_tokens=specials[:3], show_progress=False)
    )
    model = json.loads(inner.to_str())
    for text in specials[3:]:
        model["model"]["vocab"].setdefault(text, len(model["model"]["vocab"]))
    return tokenizers.Tokenizer.from_str(json.dumps(model))


def word_piece() -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.decoder = decoders.WordPiece()
    inner.train_from_iterator(TEXT, trainers.WordPieceTrainer(vocab_size=120, special_tokens=["[UNK]"], show_progress=False))
    return inner


KINDS = {
    "byte level": Tokenizer(byte_level()),
    "sentencepiece": Tokenizer(sentencepiece_like()),
    "word piece": Tokenizer(word_piece()),
}


def streamed(tokenizer: Tokenizer, ids: list[int]) -> str:
    stream = tokenizer.detokenizer()
    deltas = [stream.push(i) for i in ids]
    return "".join(deltas) + stream.finish()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", TEXT[:4])
def test_deltas_of_a_text_add_up_to_its_decoding(kind: str, text: str) -> None:
    tokenizer = KINDS[kind]
    ids = tokenizer.encode(text)
    assert streamed(tokenizer, ids) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", ["byte level", "sentencepiece"])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_deltas_of_any_ids_add_up(kind: str, data) -> None:
    tokenizer = KINDS[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=20))
    ours, theirs = streamed(tokenizer, ids), tokenizer.decode(ids)
    if kind == "byte level":
        assert ours == theirs
    else:  # broken byte runs: the library gives one U+FFFD a byte, the stream one a broken sequence
        assert ours.replace("�", "") == theirs.replace("�", "") or "�" in theirs


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=40))
def test_no_delta_ends_inside_a_character(text: str) -> None:
    tokenizer = KINDS["byte level"]
    stream = tokenizer.detokenizer()
    deltas = [stream.push(i) for i in tokenizer.encode(text)]
    assert "".join(deltas) == text
    assert all("�" not in delta for delta in deltas) or "�" in text
    assert stream.finish() == ""


def expected_cut(text: str, stops: tuple[str, ...], include: bool) -> str:
    found = [(text.find(stop), -len(stop), stop) for stop in stops if stop in text]
    if not found:
        return text
    place, _, stop = min(found)
    return text[: place + len(stop) * include]


@settings(max_examples=300, deadline=None)
@given(
    pieces=st.lists(st.text("ab", min_size=1, max_size=3), max_size=12),
    stops=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
    include=st.booleans(),
)
def test_stop_strings_cut_any_stream_where_the_whole_text_is_cut(pieces, stops, include) -> None:
    matcher, sent = StopStrings(tuple(stops), include), ""
    seen = ""
    for piece in pieces:
        seen += piece
        delta, matched = matcher.push(piece)
        sent += delta
        if matched is not None:
            assert matched in stops
            assert sent == expected_cut(seen, tuple(stops), include)
            return
        assert not any(stop in seen for stop in stops)
    assert sent + matcher.finish() == seen


def save(tokenizer: tokenizers.Tokenizer, folder: Path, **settings) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_special_ids_come_from_the_folder(tmp_path: Path) -> None:
    save(byte_level(), tmp_path, eos_token="<end>", bos_token={"content": "<end>"})
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.eos_ids == (0,) and tokenizer.bos_id == 0
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 5]}))
    assert Tokenizer.from_folder(tmp_path).eos_ids == (0, 5)


def test_loose_vocab_and_merges_give_the_same_ids(tmp_path: Path) -> None:
    inner = byte_level()
    inner.model.save(str(tmp_path))
    for text in TEXT[:4]:
        assert Tokenizer.from_folder(tmp_path).encode(text) == inner.encode(text).ids


CHAT = (
    "{%- for message in messages %}{{ '<|' + message['role'] + '|>' }}\n  {{ message['content'] | trim }}{{ eos_token }}\n"
    "{%- endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}{{ messages | tojson }}"
)


def test_chat_templates_render_as_in_transformers(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    save(byte_level(), tmp_path, eos_token="<end>", chat_template=CHAT)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), eos_token="<end>", chat_template=CHAT)
    messages = [{"role": "user", "content": " Grüße "}, {"role": "assistant", "content": "<ok> & 'so'"}]
    ours = Tokenizer.from_folder(tmp_path).apply_chat_template(messages)
    assert ours == theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def test_what_is_missing_or_broken_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="tokenizer.json"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Tokenizer.from_folder(tmp_path)
    with pytest.raises(RequestError, match="no chat template"):
        KINDS["byte level"].apply_chat_template([])
    refusing = Tokenizer(byte_level(), chat_template="{{ raise_exception('roles must alternate') }}")
    with pytest.raises(RequestError, match="roles must alternate"):
        refusing.apply_chat_template([])
