"""Ids of a text, the bytes of an id, stop strings, and what a folder says: its special ids, its files, its faults."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from brigade.checkpoint.load import EMBEDDED
from brigade.errors import CheckpointError, RequestError
from brigade.tokenizer import StopStrings, Tokenizer
from tests.tokenizer.builders import BUILDERS, TEXT, byte_level


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


@settings(max_examples=500, deadline=None)
@given(
    early=st.lists(st.text("ab", min_size=1, max_size=3), max_size=4),
    pieces=st.lists(st.text("ab", min_size=1, max_size=3), max_size=8),
    stops=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
    include=st.booleans(),
)
def test_a_stop_string_counts_where_it_ends(early, pieces, stops, include) -> None:
    """Those that end in an early delta are text for ever; those that only begin in one stop as any other."""
    matcher, sent = StopStrings(tuple(stops), include), ""
    for piece in early:
        delta, matched = matcher.push(piece, may_stop=False)
        sent += delta
        assert matched is None
    first = seen = "".join(early)
    for piece in pieces:
        seen += piece
        delta, matched = matcher.push(piece)
        sent += delta
        found = [
            (place, -len(stop), stop)
            for stop in stops
            for place in range(len(seen))
            if seen.startswith(stop, place) and place + len(stop) > len(first)
        ]
        assert (matched is None) == (not found)
        if found:
            place, _, stop = min(found)
            assert matched == stop and sent == seen[: place + len(stop) * include]
            return
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


def test_what_is_missing_or_broken_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="tokenizer.json"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Tokenizer.from_folder(tmp_path)


def test_stop_strings_hold_back_no_more_than_they_must() -> None:
    stops = StopStrings(("</s>", "\n\n"))
    assert stops.push("a <") == ("a ", None)
    assert stops.push("b\n") == ("<b", None)
    assert stops.push("c</") == ("\nc", None)
    assert stops.push("s> leaked?") == ("", "</s>")
    assert stops.finish() == ""


def test_no_stop_strings_hold_back_nothing() -> None:
    assert StopStrings(()).push("anything") == ("anything", None)


@pytest.mark.parametrize("stops", ["ab", ("a", ""), (1,)])
def test_stop_strings_that_are_none_are_refused(stops) -> None:
    with pytest.raises(RequestError, match="stop"):
        StopStrings(stops)


def write(folder: Path, **files) -> Path:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_who_decides_what_ends_a_text(tmp_path: Path) -> None:
    """generation_config.json before the tokenizer's own eos, and that before config.json."""
    save(byte_level(), tmp_path)
    assert Tokenizer.from_folder(tmp_path).eos_ids == ()
    assert Tokenizer.from_folder(write(tmp_path, config={"text_config": {"eos_token_id": [7, 8]}})).eos_ids == (7, 8)
    assert Tokenizer.from_folder(write(tmp_path, special_tokens_map={"eos_token": {"content": "<end>"}})).eos_ids == (0,)
    assert Tokenizer.from_folder(write(tmp_path, generation_config={"eos_token_id": 9})).eos_ids == (9,)


def test_a_tokenizer_that_disclaims_a_beginning_has_none(tmp_path: Path) -> None:
    save(byte_level(), tmp_path)
    write(tmp_path, config={"bos_token_id": 4})
    assert Tokenizer.from_folder(tmp_path).bos_id == 4
    write(tmp_path, tokenizer_config={"bos_token": None})
    assert Tokenizer.from_folder(tmp_path).bos_id is None


def test_templates_get_the_tokenizers_own_special_tokens(tmp_path: Path) -> None:
    save(byte_level(), tmp_path, eos_token="<end>", chat_template="{{ eos_token }}{{ bos_token is defined }}")
    write(tmp_path, generation_config={"eos_token_id": [5, 0]})
    assert Tokenizer.from_folder(tmp_path).apply_chat_template([]) == "<end>False"


def test_a_template_in_its_own_file_wins(tmp_path: Path) -> None:
    save(byte_level(), tmp_path)
    assert not Tokenizer.from_folder(tmp_path).has_chat_template
    write(tmp_path, chat_template={"chat_template": "json"})
    assert Tokenizer.from_folder(tmp_path).apply_chat_template([]) == "json"
    write(tmp_path, tokenizer_config={"chat_template": [{"name": "default", "template": "named"}]})
    assert Tokenizer.from_folder(tmp_path).apply_chat_template([]) == "named"
    (tmp_path / "chat_template.jinja").write_text("jinja")
    assert Tokenizer.from_folder(tmp_path).apply_chat_template([]) == "jinja"


def test_truncation_and_padding_of_training_do_not_touch_prompts(tmp_path: Path) -> None:
    inner = byte_level()
    inner.enable_truncation(2)
    inner.enable_padding(length=8, pad_token="<end>")
    assert Tokenizer.from_folder(save(inner, tmp_path)).encode(TEXT[0]) == byte_level().encode(TEXT[0]).ids


LOOSE = {
    "as GPT-2 is published": {},
    "with special tokens": {"bos_token": "<end>", "eos_token": "<end>", "unk_token": "<end>"},
    "as OPT is published": {"bos_token": {"content": "<end>"}, "eos_token": "<end>", "unk_token": "<end>", "add_bos_token": True},
    "with a space before the text": {"bos_token": "<end>", "eos_token": "<end>", "unk_token": "<end>", "add_prefix_space": True},
}


@pytest.mark.parametrize("name", LOOSE)
def test_loose_files_give_the_ids_of_transformers(tmp_path: Path, name: str) -> None:
    from transformers import GPT2Tokenizer

    byte_level().model.save(str(tmp_path))
    options = LOOSE[name]
    write(tmp_path, tokenizer_config=options)
    named = {key: "<end>" if key.endswith("token") and not key.startswith("add") else value for key, value in options.items()}
    theirs = GPT2Tokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"), **named)
    ours = Tokenizer.from_folder(tmp_path)
    for text in [*TEXT[:4], "", "two<end> texts"] if options else TEXT[:4]:
        assert ours.encode(text) == theirs.encode(text), text
        assert ours.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False)
    assert ours.encode("a")[0] == 0 or not options.get("add_bos_token")


def test_added_tokens_of_loose_files_keep_their_ids(tmp_path: Path) -> None:
    inner = byte_level()
    inner.model.save(str(tmp_path))
    size = inner.get_vocab_size(with_added_tokens=False)
    write(
        tmp_path,
        added_tokens={"<b>": size + 1, "<a>": size},
        tokenizer_config={"added_tokens_decoder": {"0": {"content": "<end>", "special": True, "lstrip": False}}},
    )
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.encode("<a><b><end>") == [size, size + 1, 0] and tokenizer.vocab_size == size + 2
    assert tokenizer.decode([size, 0]) == "<a>"
    write(tmp_path, added_tokens={"<b>": size + 1})
    with pytest.raises(CheckpointError, match="<b>"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("name", BUILDERS)
def test_the_bytes_of_ids_are_the_bytes_of_their_text(name: str) -> None:
    tokenizer = Tokenizer(BUILDERS[name]())
    ids = tokenizer.encode("def fibonacci return")
    joined = b"".join(map(tokenizer.token_bytes, ids)).decode()
    assert joined.strip() == tokenizer.decode(ids).strip() != ""
    assert tokenizer.token_text(ids[-1]) == tokenizer.token_bytes(ids[-1]).decode()


def test_an_id_alone_shows_its_raw_bytes() -> None:
    tokenizer = Tokenizer(byte_level())
    ids = [tokenizer._inner.token_to_id(char) for char in "âĤ¬"]
    assert [tokenizer.token_bytes(i) for i in ids] == [b"\xe2", b"\x82", b"\xac"]
    assert tokenizer.token_text(ids[0]) == "\ufffd"
    assert tokenizer.token_text(0) == "<end>"
    assert tokenizer.token_bytes(tokenizer.vocab_size + 100) == b""  # a model's padded vocabulary


def test_text_that_is_no_text_is_refused() -> None:
    tokenizer = Tokenizer(byte_level())
    with pytest.raises(RequestError, match=r"U\+D800 at position 1"):
        tokenizer.encode("a\ud800")
    with pytest.raises(RequestError, match="type bytes"):
        tokenizer.encode(b"a")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="-1 is out of range"):
        tokenizer.decode([1, -1])


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer_config.json", "{"),
        ("generation_config.json", "[1]"),
        ("generation_config.json", '{"eos_token_id": "x"}'),
        ("tokenizer_config.json", '{"eos_token": "<unknown>"}'),
        ("tokenizer_config.json", '{"chat_template": 5}'),
        ("tokenizer.json", '{"model": 1}'),
    ],
)
def test_a_broken_file_is_one_line(tmp_path: Path, file: str, content: str) -> None:
    save(byte_level(), tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(CheckpointError) as caught:
        Tokenizer.from_folder(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_loading_needs_no_jinja() -> None:
    import subprocess
    import sys

    code = "import sys, brigade.tokenizer.tokenizer; print([m for m in ('jinja2', 'torch', 'transformers') if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"


@pytest.mark.parametrize("call", [lambda own: own.encode("x"), lambda own: own.decode([1])])
def test_a_panic_of_the_library_is_the_texts_own_error(call) -> None:
    """Else it would end the engine's thread, or a replica: it is no `Exception`."""

    class PanicException(BaseException):
        pass

    class Panics:
        def encode(self, *_, **__):
            raise PanicException("index out of bounds")

        decode = encode

    own = Tokenizer(byte_level())
    own._inner = Panics()
    with pytest.raises(RequestError, match="PanicException: index out of bounds"):
        call(own)
    Panics.decode = Panics.encode = lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        call(own)


def test_special_tokens_that_are_kept_are_written_among_others_that_are_not() -> None:
    inner = byte_level()
    inner.add_special_tokens(["[CALL]", "[OTHER]"])
    tokenizer = Tokenizer(inner)
    ids = tokenizer.encode("a[CALL]b[OTHER]c<end>")
    assert set(tokenizer.special_token_ids) == {"[CALL]", "[OTHER]", "<end>"}
    for keep, text in [((), "abc"), (("[CALL]", "no token"), "a[CALL]bc"), (("[CALL]", "[OTHER]"), "a[CALL]b[OTHER]c")]:
        stream = tokenizer.detokenizer(keep=keep)
        assert "".join(stream.push(i) for i in ids) + stream.finish() == text


def test_special_ids_and_whether_tokens_add_their_own_bytes_are_told() -> None:
    """What a constraint needs to know."""
    mini = Tokenizer.from_folder(EMBEDDED)
    assert mini.special_ids == {0} and mini.adds_bytes
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    assert not Tokenizer(words).adds_bytes and Tokenizer(words).special_ids == frozenset()


def test_a_long_text_lets_other_threads_run_while_it_is_read() -> None:
    mini = Tokenizer.from_folder(EMBEDDED)
    text = "def fibonacci(n):\n    return n " * 20000
    gaps, is_over = [], threading.Event()

    def tick() -> None:
        last = time.perf_counter()
        while not is_over.is_set():
            time.sleep(0.001)
            gaps.append(time.perf_counter() - last)
            last = time.perf_counter()

    thread = threading.Thread(target=tick)
    thread.start()
    begun = time.perf_counter()
    ids = mini.encode(text)
    seconds = time.perf_counter() - begun
    is_over.set()
    thread.join()
    assert max(gaps) < seconds / 2 and ids == mini._inner.encode(text).ids
