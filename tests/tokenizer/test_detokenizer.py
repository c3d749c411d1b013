"""Deltas add up to the decoded text, whatever the ids; characters stay whole; long streams stay cheap; a continuation
says what the whole text says after its prompt."""

from __future__ import annotations

import re
import time
from functools import cache

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from brigade.tokenizer import Tokenizer
from brigade.tokenizer.detokenizer import ByteDetokenizer, ByteFallbackDetokenizer, WindowDetokenizer
from tests.tokenizer.builders import BUILDERS, TEXT

TOKENIZERS = {name: Tokenizer(build()) for name, build in BUILDERS.items()}
EVERY = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=list(TOKENIZERS))

BYTE_TOKENS = [name for name, tokenizer in TOKENIZERS.items() if tokenizer._inner.token_to_id("<0x0A>") is not None]

FRAGMENTS = [b"\xe2", b"\x82", b"\xac", b"\xf0\x9f", b"\x99\x82", b"\xff", b"\xed\xa0", b"a"]


def has_byte_tokens(tokenizer: Tokenizer) -> bool:
    return any(TOKENIZERS[name] is tokenizer for name in BYTE_TOKENS)


def deltas_of(tokenizer: Tokenizer, ids: list[int], skip: bool = True) -> list[str]:
    stream = tokenizer.detokenizer(skip)
    return [*(stream.push(i) for i in ids), stream.finish()]


def byte_ids(tokenizer: Tokenizer, raw: bytes) -> list[int]:
    vocab = tokenizer._inner.get_vocab()
    alone = {tokenizer.token_bytes(i): i for text, i in vocab.items() if len(text) == 1 or text.startswith("<0x")}
    return [alone[bytes([byte])] for byte in raw]


def test_the_builders_have_byte_tokens() -> None:
    assert len(BYTE_TOKENS) == 4


def is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def streamed(tokenizer: Tokenizer, ids: list[int], skip: bool = True) -> str:
    """What a stream of these ids must say, by the library's own decoder.

    A run of byte tokens that is bad as a whole is cut into its longest beginning that is whole characters and the rest,
    by a token that is taken out of the text again.
    """
    inner = with_cuts(tokenizer)
    cut, special = inner.token_to_id("<cut>"), special_ids(tokenizer) if skip else set()
    cut_ids: list[int] = []
    run: list[int] = []
    for i in [*(i for i in ids if i not in special and i < tokenizer.vocab_size), cut]:
        if re.fullmatch("<0x..>", inner.id_to_token(i)):
            run.append(i)
            continue
        raw = bytes(int(inner.id_to_token(j)[3:5], 16) for j in run)
        whole = next(size for size in range(len(raw), -1, -1) if is_utf8(raw[:size]))
        cut_ids += [*run[:whole], cut, *run[whole:]] if 0 < whole < len(raw) else run
        run = []
        cut_ids.append(i)
    return inner.decode(cut_ids[:-1], skip_special_tokens=False).replace("<cut>", "")


@cache
def with_cuts(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer.from_str(tokenizer._inner.to_str())
    inner.add_tokens([AddedToken("<cut>", normalized=False)])
    return inner


@cache
def special_ids(tokenizer: Tokenizer) -> set[int]:
    return {i for i, token in tokenizer._inner.get_added_tokens_decoder().items() if token.special}


@EVERY
@settings(max_examples=100, deadline=None)
@given(data=st.data(), skip=st.booleans())
def test_deltas_of_any_ids_add_up_to_their_decoding(tokenizer: Tokenizer, data, skip: bool) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=40))
    expected = streamed(tokenizer, ids, skip) if has_byte_tokens(tokenizer) else tokenizer.decode(ids, skip)
    assert "".join(deltas_of(tokenizer, ids, skip)) == expected


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
    expected = streamed(tokenizer, ids) if has_byte_tokens(tokenizer) else tokenizer.decode(ids)
    assert "".join(deltas_of(tokenizer, ids)) == expected


@settings(max_examples=200, deadline=None)
@given(raw=st.lists(st.sampled_from(FRAGMENTS), max_size=12))
def test_bytes_that_are_no_utf8_decode_as_the_library_decodes_them(raw: list[bytes]) -> None:
    tokenizer = TOKENIZERS["byte level"]
    ids = byte_ids(tokenizer, b"".join(raw))
    assert "".join(deltas_of(tokenizer, ids)) == tokenizer.decode(ids)


# Long enough for a window to be trimmed in the middle of a run.
RUNS = st.lists(st.sampled_from([*FRAGMENTS[:-1], *[char.encode() for char in "\n €🙂é"] * 3]), max_size=60)


@pytest.mark.parametrize("name", BYTE_TOKENS)
@settings(max_examples=100, deadline=None)
@given(runs=st.lists(RUNS, max_size=3))
def test_whole_characters_of_a_bad_run_are_all_that_a_stream_and_a_decoding_differ_in(name: str, runs) -> None:
    tokenizer, ids = TOKENIZERS[name], []
    for run in runs:
        ids += [*byte_ids(tokenizer, b"".join(run)), tokenizer._inner.token_to_id("x")]
    text = "".join(deltas_of(tokenizer, ids))
    assert text == streamed(tokenizer, ids)
    if all(is_utf8(b"".join(run)) for run in runs):
        assert text == tokenizer.decode(ids)


@pytest.mark.parametrize("name", BYTE_TOKENS)
@settings(max_examples=100, deadline=None)
@given(text=st.text("\n €🙂é", min_size=1, max_size=100))
def test_every_character_of_byte_tokens_is_sent_with_its_last_byte(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    stream, letter = tokenizer.detokenizer(), tokenizer._inner.token_to_id("x")
    assert stream.push(letter) == "x"
    for char in text:
        *first, last = byte_ids(tokenizer, char.encode())
        assert stream.push_many(first) == ""
        assert stream.push(last) == char
    assert stream.finish() == ""


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


@pytest.mark.parametrize("name", BYTE_TOKENS)
def test_a_bad_byte_spoils_what_was_not_sent_of_its_run(name: str) -> None:
    """In the library it spoils its whole run; the characters that were sent before it came stay."""
    tokenizer = TOKENIZERS[name]
    euro, bad = byte_ids(tokenizer, "€".encode()), byte_ids(tokenizer, b"\xff")
    letter = tokenizer._inner.token_to_id("x")
    assert deltas_of(tokenizer, [*euro, letter]) == ["", "", "€", "x", ""]
    assert "".join(deltas_of(tokenizer, [*euro, *bad, *euro, letter])) == "€" + "\ufffd" * 4 + "x"
    assert tokenizer.decode([*euro, *bad, *euro, letter]) == "\ufffd" * 7 + "x"
    assert "".join(deltas_of(tokenizer, [*euro, *euro[:2], letter])) == "€\ufffd\ufffdx"


def test_a_skipped_token_does_not_cut_a_character() -> None:
    tokenizer = TOKENIZERS["byte level"]
    first, second, third = byte_ids(tokenizer, "€".encode())
    end = tokenizer._inner.token_to_id("<end>")
    assert "".join(deltas_of(tokenizer, [first, end, second, third])) == "€"
    assert "".join(deltas_of(tokenizer, [first, end, second, third], skip=False)) == "\ufffd<end>\ufffd\ufffd"


@EVERY
@settings(max_examples=100, deadline=None)
@given(data=st.data(), skip=st.booleans())
def test_a_continuation_is_the_rest_of_a_stream_that_begins_with_the_prompt(tokenizer: Tokenizer, data, skip: bool) -> None:
    """Whatever the ids of the prompt, and wherever it ends: also inside a character."""
    some_id = st.integers(0, tokenizer.vocab_size + 3)
    if has_byte_tokens(tokenizer):
        some_id |= st.sampled_from(byte_ids(tokenizer, "€🙂\n".encode() + b"\xff"))
    prompt, output = data.draw(st.lists(some_id, max_size=70)), data.draw(st.lists(some_id, max_size=12))
    whole = tokenizer.detokenizer(skip)
    whole.push_many(prompt)
    stream = tokenizer.detokenizer(skip, after=prompt)
    assert [*map(stream.push, output), stream.finish()] == [*map(whole.push, output), whole.finish()]


@EVERY
@settings(max_examples=100, deadline=None)
@given(prompt=st.text(), output=st.text("abcx é\n🙂"))
def test_prompt_and_continuation_are_the_whole_decoding(tokenizer: Tokenizer, prompt: str, output: str) -> None:
    first, rest = tokenizer.encode(prompt), tokenizer.encode(output)
    stream = tokenizer.detokenizer(after=first)
    assert tokenizer.decode(first) + stream.push_many(rest) + stream.finish() == tokenizer.decode(first + rest)


@pytest.mark.parametrize("name", [name for name in TOKENIZERS if name.startswith("sentencepiece") or name == "unusual bytes"])
def test_a_continuation_keeps_the_space_of_its_first_token(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    prompt, (word, *_) = tokenizer.encode("def fibonacci"), tokenizer.encode("return")
    assert tokenizer._inner.id_to_token(word).startswith("▁")
    stream = tokenizer.detokenizer(after=prompt)
    assert stream.push(word).startswith(" ")


@pytest.mark.parametrize("name", ["sentencepiece", "unusual bytes"])
def test_after_a_prompt_without_text_the_first_token_is_the_first(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    begin, (word, *_) = tokenizer._inner.token_to_id("<s>"), tokenizer.encode("return")
    assert not tokenizer.detokenizer(after=[begin, begin]).push(word).startswith(" ")
    assert tokenizer.detokenizer(False, after=[begin]).push(word).startswith(" ")  # then "<s>" is text


@pytest.mark.parametrize("name", BYTE_TOKENS)
@settings(max_examples=100, deadline=None)
@given(before=RUNS, after=RUNS, words=st.integers(0, 3))
@example(before=["€".encode()] * 20 + [b"\xe2"], after=[b"\x82\xac"], words=1)
@example(before=["€".encode()] * 20 + [b"\xe2"], after=[b"\xff"], words=1)
def test_a_continuation_may_begin_anywhere_in_a_run_of_byte_tokens(name: str, before, after, words: int) -> None:
    tokenizer = TOKENIZERS[name]
    letter = tokenizer._inner.token_to_id("x")
    prompt = [*[letter] * words, *byte_ids(tokenizer, b"".join(before))]
    output = [*byte_ids(tokenizer, b"".join(after)), letter]
    whole = tokenizer.detokenizer()
    whole.push_many(prompt)
    stream = tokenizer.detokenizer(after=prompt)
    assert [*map(stream.push, output), stream.finish()] == [*map(whole.push, output), whole.finish()]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_replacement_character_that_is_spelled_out_is_sent_once(name: str) -> None:
    inner = BUILDERS[name]()
    inner.add_tokens([AddedToken("\ufffd", normalized=False)])
    tokenizer = Tokenizer(inner)
    ids = tokenizer.encode("a\ufffd")
    assert ids[-1] == inner.token_to_id("\ufffd")
    stream, more = tokenizer.detokenizer(after=ids), tokenizer.encode("a")
    assert tokenizer.decode(ids) + stream.push_many(more) + stream.finish() == tokenizer.decode(ids + more)


@pytest.mark.alone
@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_long_prompt_costs_a_continuation_little(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode("def fibonacci return " * 4000)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        tokenizer.detokenizer(after=ids)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.005


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


@pytest.mark.alone
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
