"""Deltas add up to the decoded text, whatever the ids; characters stay whole; long streams stay cheap."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brigade.tokenizer import Tokenizer
from brigade.tokenizer.detokenizer import ByteDetokenizer, ByteFallbackDetokenizer, WindowDetokenizer
from tests.tokenizer.builders import BUILDERS, TEXT

TOKENIZERS = {name: Tokenizer(build()) for name, build in BUILDERS.items()}
EVERY = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=list(TOKENIZERS))

FRAGMENTS = [b"\xe2", b"\x82", b"\xac", b"\xf0\x9f", b"\x99\x82", b"\xff", b"\xed\xa0", b"a"]


def deltas_of(tokenizer: Tokenizer, ids: list[int], skip: bool = True) -> list[str]:
    stream = tokenizer.detokenizer(skip)
    return [*(stream.push(i) for i in ids), stream.finish()]


def byte_ids(tokenizer: Tokenizer, raw: bytes) -> list[int]:
    vocab = tokenizer._inner.get_vocab()
    alone = {tokenizer.token_bytes(i): i for text, i in vocab.items() if len(text) == 1 or text.startswith("<0x")}
    return [alone[bytes([byte])] for byte in raw]


@EVERY
@settings(max_examples=150, deadline=None)
@given(data=st.data(), skip=st.booleans())
def test_deltas_of_any_ids_add_up_to_their_decoding(tokenizer: Tokenizer, data, skip: bool) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=40))
    assert "".join(deltas_of(tokenizer, ids, skip)) == tokenizer.decode(ids, skip)


@EVERY
@settings(max_examples=80, deadline=None)
@given(text=st.text(max_size=60))
def test_deltas_of_any_text_add_up_to_its_decoding(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert "".join(deltas_of(tokenizer, ids)) == tokenizer.decode(ids)


@EVERY
@settings(max_examples=10, deadline=None)
@given(seed=st.randoms(use_true_random=False))
def test_a_stream_longer_than_any_window_adds_up(tokenizer: Tokenizer, seed) -> None:
    ids = [seed.randrange(tokenizer.vocab_size) for _ in range(300)]
    assert "".join(deltas_of(tokenizer, ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize("name", ["byte level", "sentencepiece", "unusual bytes"])
@settings(max_examples=200, deadline=None)
@given(raw=st.lists(st.sampled_from(FRAGMENTS), max_size=12))
def test_bytes_that_are_no_utf8_decode_as_the_library_decodes_them(name: str, raw: list[bytes]) -> None:
    tokenizer = TOKENIZERS[name]
    raw = [piece for piece in raw if piece != b"a" or name == "byte level"]
    ids = byte_ids(tokenizer, b"".join(raw))
    assert "".join(deltas_of(tokenizer, ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize("name", ["byte level", "sentencepiece"])
@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\ufffd▁"), max_size=40))
def test_no_delta_ends_inside_a_character(name: str, text: str) -> None:
    deltas = deltas_of(TOKENIZERS[name], TOKENIZERS[name].encode(text))
    assert "".join(deltas) == text
    assert not any("\ufffd" in delta for delta in deltas)


def test_bytes_wait_for_their_character_and_give_up_at_the_end() -> None:
    tokenizer = TOKENIZERS["byte level"]
    first, second, third, letter = byte_ids(tokenizer, "€a".encode())
    assert deltas_of(tokenizer, [first, second, third]) == ["", "", "€", ""]
    assert deltas_of(tokenizer, [first, second]) == ["", "", "\ufffd"]
    assert deltas_of(tokenizer, [first, letter]) == ["", "\ufffda", ""]


def test_a_run_of_byte_tokens_decides_together() -> None:
    """One bad byte spoils its whole run, as in the library: so nothing of a run is sent before it ends."""
    tokenizer = TOKENIZERS["sentencepiece"]
    euro, bad = byte_ids(tokenizer, "€".encode()), byte_ids(tokenizer, b"\xff")
    letter = tokenizer._inner.token_to_id("x")
    assert deltas_of(tokenizer, [*euro, letter]) == ["", "", "", "€x", ""]
    assert deltas_of(tokenizer, [*euro, *bad, letter]) == ["", "", "", "", "\ufffd" * 4 + "x", ""]


def test_a_skipped_token_does_not_cut_a_character() -> None:
    tokenizer = TOKENIZERS["byte level"]
    first, second, third = byte_ids(tokenizer, "€".encode())
    end = tokenizer._inner.token_to_id("<end>")
    assert "".join(deltas_of(tokenizer, [first, end, second, third])) == "€"
    assert "".join(deltas_of(tokenizer, [first, end, second, third], skip=False)) == "\ufffd<end>\ufffd\ufffd"


@EVERY
def test_push_many_is_push_of_each(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT[1]) + list(range(20))
    one, many = tokenizer.detokenizer(), tokenizer.detokenizer()
    assert many.push_many(ids) + many.finish() == "".join(map(one.push, ids)) + one.finish()


def test_streams_share_a_table_and_nothing_else() -> None:
    tokenizer = TOKENIZERS["byte level"]
    first, second, third, _ = byte_ids(tokenizer, "€a".encode())
    left, right = tokenizer.detokenizer(), tokenizer.detokenizer()
    left.push(first)
    assert right.push_many(tokenizer.encode("a b")) == "a b"
    assert left.push_many([second, third]) == "€"
    assert left._pieces is right._pieces


def test_each_decoder_gets_the_fastest_detokenizer_that_is_right_for_it() -> None:
    kinds = {name: type(tokenizer.detokenizer()) for name, tokenizer in TOKENIZERS.items()}
    assert kinds.pop("byte level") is ByteDetokenizer
    assert {name for name, kind in kinds.items() if kind is ByteFallbackDetokenizer} == {
        "sentencepiece",
        "sentencepiece, nothing stripped",
        "sentencepiece, two stripped",
    }
    assert kinds["word piece"] is kinds["metaspace"] is kinds["unusual bytes"] is WindowDetokenizer


@pytest.mark.parametrize("name", ["byte level", "sentencepiece"])
def test_a_push_takes_microseconds(name: str) -> None:
    """The aim is 1.5 µs; the bound here allows for a busy machine."""
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode("def fibonacci return " * 500)
    seconds = []
    for _ in range(5):
        push, start = tokenizer.detokenizer().push, time.perf_counter()
        for i in ids:
            push(i)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) / len(ids) < 5e-6
