"""`brigade eval`: what it prints and writes, and one line with exit code 2 for what cannot be judged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from brigade.backends.cpu.library import find_kernels
from brigade.checkpoint.load import EMBEDDED
from brigade.cli.main import main

needs_kernels = pytest.mark.skipif(find_kernels() is None, reason="the C++ kernels are not built: no compiler on this machine")
TEXT = "import os\n\n\ndef main():\n    return os.getcwd()\n"


def run(capsys, *argv: str) -> tuple[int, str, str]:
    code = main(["eval", *argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def text(tmp_path: Path) -> str:
    (tmp_path / "text.txt").write_text(TEXT)
    return str(tmp_path / "text.txt")


def test_a_model_alone(capsys, text: str, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    code, shown, _ = run(capsys, "--text", text, "--window", "8", "--stride", "3", "--json", str(out))
    facts = json.loads(out.read_text())
    assert code == 0 and "bits per byte" in shown and "scored after bos" in shown
    assert facts["bytes"] == facts["scored_bytes"] == len(TEXT) and facts["windows"] > 2
    assert f"{facts['tokens']} tokens, perplexity {facts['perplexity']:.4f}" in shown


@pytest.mark.parametrize("engine", ["dynamic", "static"])
def test_beside_a_reference(capsys, text: str, tmp_path: Path, engine: str) -> None:
    out = tmp_path / "out.json"
    code, shown, _ = run(
        capsys, str(EMBEDDED), "--text", text, "--against", str(EMBEDDED), "--against-dtype", "float32", "--json", str(out),
        "--engine", engine,
    )  # fmt: skip
    facts = json.loads(out.read_text())
    assert code == 0 and "KL(P || Q), P the reference, Q the model" in shown and "the most likely token is the same" in shown
    assert facts["numerics_id"].endswith("bfloat16") and facts["against"]["numerics_id"].endswith("float32")
    assert 0 < facts["kl"]["mean"] <= facts["kl"]["max"] < 1e-2 and 0.5 < facts["same_top1"] <= 1
    change = 100 * (facts["perplexity"] / facts["against"]["perplexity"] - 1)
    assert facts["percent"]["perplexity"] == pytest.approx(change) and abs(change) < 1


@needs_kernels
def test_a_quantised_model_beside_itself_whole(capsys, text: str, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    quant = ["--text", text, "--quant", "int4", "--against", str(EMBEDDED), "--json", str(out)]
    assert run(capsys, *quant)[0] == 0
    facts = json.loads(out.read_text())
    assert "int4" in facts["numerics_id"] and "int4" not in facts["against"]["numerics_id"] and facts["kl"]["mean"] > 1e-4
    assert run(capsys, *quant, "--against-quant", "int4")[0] == 0
    assert json.loads(out.read_text())["kl"]["max"] == 0
    assert run(capsys, *quant, "--against-backend", "reference")[0] == 0
    assert json.loads(out.read_text())["against"]["numerics_id"].startswith("reference-3")


@needs_kernels
def test_two_artifacts_and_a_model_beside_one(capsys, text: str, tmp_path: Path) -> None:
    for name, quant in {"whole": "none", "small": "int8"}.items():
        assert main(["export", "mini", str(tmp_path / name), "--quant", quant]) == 0
    out = tmp_path / "out.json"
    for pair in (("small", "whole"), ("whole", "small")):
        code, _, _ = run(capsys, str(tmp_path / pair[0]), "--text", text, "--against", str(tmp_path / pair[1]), "--json", str(out))
        assert code == 0 and json.loads(out.read_text())["kl"]["mean"] > 0
    code, _, errors = run(capsys, str(tmp_path / "whole"), "--text", text, "--quant", "int8", "--rank-layers")
    assert code == 2 and "needs the model it was made from" in errors
    code, _, _ = run(
        capsys, str(EMBEDDED), "--dtype", "bfloat16", "--backend", "cpu", "--text", text, "--against", str(tmp_path / "whole"),
        "--json", str(out),
    )  # fmt: skip
    assert code == 0 and json.loads(out.read_text())["kl"]["max"] == 0


@needs_kernels
def test_layers_are_ranked_and_feed_the_skip_list(capsys, text: str, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    code, shown, _ = run(capsys, "--text", text, "--quant", "int4", "--rank-layers", "--json", str(out))
    rows = json.loads(out.read_text())["ranking"]
    assert code == 0 and {row["layer"] for row in rows} == {*"0123456", "head"}
    assert [row["mean_kl"] for row in rows] == sorted((row["mean_kl"] for row in rows), reverse=True) and rows[-1]["mean_kl"] > 0
    hint = shown.splitlines()[-1].split("three whole: ")[1].split()
    assert hint[3] == ",".join(row["layer"] for row in rows[:3])
    assert run(capsys, "--text", text, *hint)[0] == 0


def _other_vocabulary(folder: Path) -> str:
    for file in EMBEDDED.iterdir():
        shutil.copy(file, folder / file.name)
    config = json.loads((EMBEDDED / "config.json").read_text()) | {"vocab_size": 5000}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


BAD = {
    "no text": ([], "--text"),
    "no such file": (["--text", "@/none"], "none (No such file or directory); give a text file"),
    "a folder": (["--text", "@"], "(Is a directory); give a text file"),
    "empty text": (["--text", "@/empty.txt"], "empty.txt is empty"),
    "not UTF-8": (["--text", "@/bad.txt"], "bad.txt is not UTF-8 (byte 0xff at 1)"),
    "two models": (["--text", "@/text.txt", "a", "--model", "b"], "given twice"),
    "no tokenizer": (["gpt-345m", "--text", "@/text.txt"], "no tokenizer"),
    "random weights": (["--text", "@/text.txt", "--random-weights", "1"], "drop it"),
    "window too long": (["--text", "@/text.txt", "--window", "2000"], "no more than 1024"),
    "stride too long": (["--text", "@/text.txt", "--window", "8", "--stride", "9"], "stride is 9; it must be 1 to 8"),
    "useless dtype": (["--text", "@/text.txt", "--against-dtype", "float32"], "no effect without --against"),
    "useless quant": (["--text", "@/text.txt", "--against-quant", "int8"], "no effect without --against"),
    "useless backend": (["--text", "@/text.txt", "--against-backend", "reference"], "no effect without --against"),
    "ranking without a scheme": (["--text", "@/text.txt", "--rank-layers"], "--rank-layers needs --quant"),
    "ranking with a skip list": (
        ["--text", "@/text.txt", "--rank-layers", "--quant", "int8", "--skip-layers", "1"],
        "drop --against and --skip-layers",
    ),
    "useless batch": (["--text", "@/text.txt", "--max-batch-size", "3"], "no effect on eval"),
    "useless queue": (["--text", "@/text.txt", "--max-waiting", "3"], "no effect on eval"),
    "useless cache": (["--text", "@/text.txt", "--no-prefix-cache"], "no effect on eval"),
    "other vocabulary": (["--text", "@/text.txt", "--against", "@"], "a vocabulary of 4096 and"),
    "no such reference": (["--text", "@/text.txt", "--against", "nowhere"], "no model 'nowhere'"),
    "unwritable output": (["--text", "@/text.txt", "--json", "@/none/out.json"], "cannot write"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_judged_is_one_line(case: str, capsys, text: str, tmp_path: Path) -> None:
    argv, expected = BAD[case]
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "bad.txt").write_bytes(b"a\xff")
    if case == "other vocabulary":
        _other_vocabulary(tmp_path)
    code, shown, errors = run(capsys, *(str(tmp_path) + word[1:] if word.startswith("@") else word for word in argv))
    assert code == 2 and shown == ""
    assert errors.startswith("brigade: error: ") and expected in errors and errors.count("\n") == 1


def test_the_text_is_not_overwritten(capsys, tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("hello there\n")
    assert main(["eval", "--text", str(text), "--json", str(tmp_path / "." / "a.txt")]) == 2
    assert "which is read; choose another place" in capsys.readouterr().err and text.read_text() == "hello there\n"


@needs_kernels
@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--against-quant", "int3"], "quant is 'int3'; it must be one of none, int8"),
        (["--against-dtype", "int8"], "dtype is 'int8'"),
        (["--against-backend", "none"], "unknown backend 'none'"),
        (["--against-backend", "reference", "--against-quant", "int8"], "keeps weights whole"),
        (["--quant", "int8", "--skip-layers", "9"], "--skip-layers names '9'"),
    ],
)
def test_a_wrong_reference_is_refused_before_the_first_model_is_loaded(capsys, text: str, monkeypatch, argv, words: str) -> None:
    monkeypatch.setattr("brigade.assembly.line.fill", lambda *args, **settings: pytest.fail("a model was loaded"))
    code, shown, errors = run(capsys, "--text", text, "--against", str(EMBEDDED), *argv)
    assert code == 2 and shown == "" and words in errors and errors.count("\n") == 1


@needs_kernels
def test_a_wrong_scheme_to_rank_is_refused_before_the_model_is_loaded(capsys, text: str, monkeypatch) -> None:
    monkeypatch.setattr("brigade.assembly.line.fill", lambda *args, **settings: pytest.fail("a model was loaded"))
    code, _, errors = run(capsys, "--text", text, "--rank-layers", "--quant", "int3")
    assert code == 2 and "quant is 'int3'" in errors


def test_the_first_line_says_the_formats_of_the_model_and_a_later_one_those_of_the_reference(capsys, text: str) -> None:
    backend = ["--backend", "reference", "--against", str(EMBEDDED), "--against-dtype", "float32"]
    code, shown, _ = run(capsys, "--text", text, *backend)
    assert code == 0 and "weights: bfloat16, held as float32; arithmetic: float32; cache: bfloat16" in shown.splitlines()[0]
    assert "weights: float32; arithmetic: float32; cache: float32" in shown
