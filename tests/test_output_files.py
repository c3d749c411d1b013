"""Files appear whole or not at all, whatever comes in between."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from brigade import output_files
from brigade.errors import ConfigError
from brigade.output_files import check_outputs, write_file, write_json


@pytest.mark.parametrize("what", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=["Ctrl-C", "full disk"])
@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
@pytest.mark.parametrize("before", [None, "old"])
def test_an_interruption_leaves_what_was_there(
    step: str, what: BaseException, before: str | None, tmp_path: Path, monkeypatch
) -> None:
    out = tmp_path / "out.txt"
    if before is not None:
        out.write_text(before)

    def fail(*_):
        raise what

    monkeypatch.setattr(output_files.os, step, fail)
    with pytest.raises(KeyboardInterrupt if isinstance(what, KeyboardInterrupt) else ConfigError) as caught:
        write_file(out, "new")
    monkeypatch.undo()
    assert [path.read_text() for path in tmp_path.iterdir()] == ([] if before is None else [before])
    if caught.type is ConfigError:
        assert str(caught.value) == f"cannot write {out}: No space left on device; make room, or choose another place"


def test_checking_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    times = (tmp_path / "old").stat()
    check_outputs({"--json": tmp_path / "old", "--svg": tmp_path / "new", "--trace": None}, [None, tmp_path / "no-such-input"])
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").stat().st_mtime_ns == times.st_mtime_ns


def test_an_output_may_not_take_the_name_of_an_input_that_is_still_to_come(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is the same file as"):
        check_outputs({"--json": tmp_path / "model"}, [tmp_path / "model"])


def test_files_beside_an_input_and_in_folders_of_its_folder_are_free(tmp_path: Path) -> None:
    (tmp_path / "model" / "results").mkdir(parents=True)
    check_outputs({"--json": tmp_path / "out.json", "--svg": tmp_path / "model" / "results" / "a.svg"}, [tmp_path / "model"])


def test_a_link_to_nothing_yet_is_a_place(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    write_file(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "new"


def test_a_file_reached_by_another_hard_link_keeps_its_content_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    os.link(tmp_path / "a", tmp_path / "b")
    write_file(tmp_path / "b", "new")
    assert (tmp_path / "a").read_text() == "old" and (tmp_path / "b").read_text() == "new"


def test_a_pipe_with_a_reader_is_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    check_outputs({"--json": tmp_path / "pipe"})
    write_json(tmp_path / "pipe", [1])
    assert os.read(reader, 100) == b"[\n 1\n]\n" and stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    os.close(reader)


def test_half_of_a_surrogate_pair_is_no_reason_to_lose_a_run(tmp_path: Path) -> None:
    write_json(tmp_path / "out.json", {"text": "é\ud83d"})
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8")) == {"text": "é\ud83d"}
