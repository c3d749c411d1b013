"""What a command writes: never what it reads, under any spelling; whole or not at all; and its name in every complaint."""

from __future__ import annotations

import json
import os
import resource
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from brigade.backends.cpu.library import find_kernels
from brigade.checkpoint.load import EMBEDDED
from brigade.cli.main import main
from brigade.errors import ConfigError

needs_kernels = pytest.mark.skipif(find_kernels() is None, reason="the C++ kernels are not built: no compiler on this machine")
OVERHEAD = ["bench", "overhead", "--requests", "1", "--steps", "1", "--json"]  # the quickest command that writes a file
RECIPE = (
    "num_layers: 1\nhidden_size: 16\nnum_heads: 2\nnum_kv_heads: 2\nhead_dim: 8\nffn_size: 32\nvocab_size: 40\n"
    "max_positions: 64\nrope: {rotary_dim: 8}\n"
)
SPELLINGS = ("itself", "relative", "link", "hard link", "through a linked folder")


def spelled(path: Path, how: str, folder: Path) -> str:
    """Another name of the same file."""
    name = folder / "another-name"
    if how == "relative":
        return os.path.relpath(path)
    if how == "link":
        name.symlink_to(path)
    elif how == "hard link":
        os.link(path, name)
    elif how == "through a linked folder":
        (folder / "linked").symlink_to(path.parent)
        return str(folder / "linked" / path.name)
    else:
        return str(path)
    return str(name)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Everything that a command may read."""
    (tmp_path / "prompts.jsonl").write_text('{"text": "import os", "max_tokens": 1}\n')
    (tmp_path / "text.txt").write_text("import os\nimport sys\n")
    (tmp_path / "own.yaml").write_text(RECIPE)
    shutil.copytree(EMBEDDED, tmp_path / "model")
    return tmp_path


# What is read, and the command that would write over it: @ is the folder of everything, % the other spelling.
READ = {
    "prompts of generate": ("prompts.jsonl", ["generate", "--prompts-file", "@/prompts.jsonl", "--json", "%"]),
    "model of generate": ("model/config.json", ["generate", "x", "--model", "@/model", "--json", "%"]),
    "recipe of generate": (
        "own.yaml", ["generate", "--token-ids", "1", "--model", "@/own.yaml", "--random-weights", "1", "--json", "%"]),
    "prompts of throughput": ("prompts.jsonl", ["bench", "throughput", "--prompts-file", "@/prompts.jsonl", "--json", "%"]),
    "weights of latency": ("model/model.safetensors", ["bench", "latency", "--model", "@/model", "--svg", "%"]),
    "recipe of latency": ("own.yaml", ["bench", "latency", "--model", "@/own.yaml", "--random-weights", "1", "--json", "%"]),
    "text of eval": ("text.txt", ["eval", "--text", "@/text.txt", "--json", "%"]),
    "model of eval": ("model/tokenizer.json", ["eval", "@/model", "--text", "@/text.txt", "--json", "%"]),
    "reference of eval": ("model/config.json", ["eval", "--text", "@/text.txt", "--against", "@/model", "--json", "%"]),
    "recipe of peers": ("own.yaml", ["bench", "peers", "--model", "@/own.yaml", "--work", "@/work", "--markdown", "%"]),
}  # fmt: skip


@pytest.mark.parametrize("how", SPELLINGS)
@pytest.mark.parametrize("case", READ)
def test_nothing_that_is_read_is_written_over(case: str, how: str, place: Path, capsys, monkeypatch) -> None:
    name, argv = READ[case]
    monkeypatch.chdir(place / "model")
    before = (place / name).read_bytes()
    path = spelled(place / name, how, place)
    assert main([str(place) + word[1:] if word.startswith("@") else word.replace("%", path) for word in argv]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("brigade: error: ") and "which is read; choose another place" in errors and errors.count("\n") == 1
    assert (place / name).read_bytes() == before


def test_nothing_new_is_put_into_a_model_folder(place: Path, capsys) -> None:
    assert main(["generate", "x", "--model", str(place / "model"), "--json", str(place / "model" / "out.json")]) == 2
    assert "a folder that is read; choose another place" in capsys.readouterr().err
    assert main(["export", str(place / "model"), str(place / "model" / "packed")]) == 2
    assert "a folder that is read; choose another place" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "options"), [("latency", ("--json", "--svg")), ("peers", ("--json", "--markdown"))], ids=["latency", "peers"]
)
@pytest.mark.parametrize("how", SPELLINGS)
def test_two_outputs_are_two_files(command: str, options: tuple[str, str], how: str, tmp_path: Path, capsys, monkeypatch) -> None:
    (tmp_path / "inner").mkdir()
    first = tmp_path / "inner" / "out"
    first.write_text("old")
    monkeypatch.chdir(tmp_path)
    argv = ["bench", command, options[0], str(first), options[1], spelled(first, how, tmp_path)]
    assert main([*argv, "--work", str(tmp_path / "work")] if command == "peers" else argv) == 2
    errors = capsys.readouterr().err
    assert f"is the same file as {first}, which --json writes; choose another place" in errors and first.read_text() == "old"


def test_a_link_stays_a_link_and_permissions_stay(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "real.json").chmod(0o640)
    (tmp_path / "link.json").symlink_to("real.json")
    inode = (tmp_path / "real.json").stat().st_ino
    assert main([*OVERHEAD, str(tmp_path / "link.json")]) == 0
    assert (tmp_path / "link.json").is_symlink() and len(json.loads((tmp_path / "real.json").read_text())) == 5
    assert stat.S_IMODE((tmp_path / "real.json").stat().st_mode) == 0o640
    assert (tmp_path / "real.json").stat().st_ino != inode, "it was replaced, not written over"
    assert {path.name for path in tmp_path.iterdir()} == {"real.json", "link.json"}


def test_a_new_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        assert main([*OVERHEAD, str(tmp_path / "new.json")]) == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new.json").stat().st_mode) == 0o640


def on_a_full_disk(argv: list[str], most: int) -> subprocess.CompletedProcess:
    """No file may grow beyond `most` bytes, which the system refuses as it refuses a full disk."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    command = [sys.executable, "-m", "brigade.cli.main", *argv]
    variables = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, env=variables)


def test_on_a_full_disk_the_old_file_stays(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    out.write_text("old")
    done = on_a_full_disk([*OVERHEAD, str(out)], 100)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"cannot write {out}: File too large; make room" in done.stderr
    assert out.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["out.json"]


@needs_kernels
@pytest.mark.parametrize("form", ["brigade", pytest.param("compressed-tensors", marks=pytest.mark.slow)])
def test_on_a_full_disk_no_part_of_an_export_stays(tmp_path: Path, form: str) -> None:
    done = on_a_full_disk(["export", "mini", str(tmp_path / "out"), "--quant", "int8", "--format", form], 1 << 20)
    *progress, last = done.stderr.splitlines()
    assert done.returncode == 2 and all(line.startswith(("packing", "writing")) for line in progress)
    assert last.startswith(f"brigade: error: cannot write {tmp_path / 'out'}: ") and "too large" in last.lower()
    assert not list(tmp_path.iterdir())


def test_a_device_is_written_to_and_never_replaced(capsys) -> None:
    assert main([*OVERHEAD, "/dev/full"]) == 2
    assert "cannot write /dev/full: No space left on device" in capsys.readouterr().err
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)
    assert main([*OVERHEAD, "/dev/null"]) == 0 and stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_pipe_that_nobody_reads_is_no_endless_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    command = [sys.executable, "-m", "brigade.cli.main", *OVERHEAD, str(tmp_path / "pipe")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and f"cannot write {tmp_path / 'pipe'}: " in done.stderr


def test_standard_output_that_takes_nothing_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "brigade.cli.main", "inspect", "345m"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "cannot write to standard output: No space left on device" in done.stderr


def test_a_system_error_names_its_file(tmp_path: Path, capsys) -> None:
    assert main(["generate", "--prompts-file", str(tmp_path / "none.jsonl")]) == 2
    assert capsys.readouterr().err == (
        f"brigade: error: {tmp_path / 'none.jsonl'}: No such file or directory; give a file of prompts, one JSON object a line\n"
    )


WRONG = {
    "a loop of links": ("loop", "Too many levels of symbolic links"),
    "a name too long": (250 * "x" + 20 * "y", "File name too long"),
    "below a file": ("text.txt/out.json", "Not a directory"),
    "an open file": ("/dev/stdout", "is open already; give the file by its own name"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_place_that_cannot_be_is_refused_before_the_work(case: str, place: Path, capfd) -> None:
    (place / "loop").symlink_to("loop")  # and standard output is a file while `capfd` holds it
    name, words = WRONG[case]
    assert main([*OVERHEAD, str(place / name)]) == 2
    shown, errors = capfd.readouterr()
    assert shown == "" and words in errors and errors.count("\n") == 1


def test_an_export_may_have_the_name_of_the_embedded_model(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", "mini", "mini", "--format", "compressed-tensors"]) == 0 and (tmp_path / "mini" / "config.json").exists()


def test_the_examples_keep_what_they_read(place: Path, monkeypatch, capsys) -> None:
    from examples.train_mini import evaluate, export, plot

    losses = place / "losses.json"
    losses.write_text("[2.0, 1.0]")
    (place / "link.svg").symlink_to(losses)
    with pytest.raises(ConfigError, match="is the same file as"):
        plot.main(losses, place / "link.svg")
    plot.main(losses, place / "new.svg")
    assert losses.read_text() == "[2.0, 1.0]" and "<svg" in (place / "new.svg").read_text()
    with pytest.raises(ConfigError, match="is the same file as"):
        export.export(place, place)
    with pytest.raises(ConfigError, match="a folder that is read"):
        export.export(place, place / "out")
    config = place / "model" / "config.json"
    before = config.read_bytes()
    monkeypatch.setattr(sys, "argv", ["evaluate", "--model", str(place / "model"), "--json", str(config)])
    with pytest.raises(SystemExit):
        evaluate.main()
    assert "which is read; choose another place" in capsys.readouterr().err and config.read_bytes() == before
