"""`brigade export`, and its artifacts wherever a model is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from brigade.backends.cpu.library import find_kernels

if find_kernels() is None:
    pytest.skip("the C++ kernels are not built: no compiler on this machine", allow_module_level=True)

from brigade.artifact.manifest import read_manifest
from brigade.backends.cpu.library import available_paths, choose_path
from brigade.bench.ceilings import Ceilings
from brigade.cli.main import main
from tests.artifact.builders import export

SMALL = ["--kv-blocks", "32"]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(export("mini", tmp_path_factory.mktemp("cli") / "mini8", "--quant", "int8", "--skip-layers", "2.down,0"))


def run(capsys, *argv: str) -> tuple[int, str, str]:
    code = main(list(argv))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_it_says_what_it_made(capsys, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()  # an empty folder is a place
    code, shown, _ = run(capsys, "export", "mini", str(tmp_path / "out"), "--quant", "int4")
    assert code == 0 and "29 matrices and 16 tensors" in shown and "/int4" in shown
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_a_recipe_with_random_weights(capsys, tmp_path: Path) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        "num_layers: 1\nhidden_size: 16\nnum_heads: 2\nnum_kv_heads: 2\nhead_dim: 8\nffn_size: 32\nvocab_size: 40\n"
        "max_positions: 64\nrope: {rotary_dim: 8}\n"
    )
    export(recipe, tmp_path / "a", "--random-weights", "3", "--dtype", "bfloat16")
    ask = ["--token-ids", "1 2 3", "--temperature", "0", "--max-tokens", "6"]
    capsys.readouterr()
    of_recipe = run(capsys, "generate", "--model", str(recipe), "--random-weights", "3", "--dtype", "bfloat16", *ask)
    assert run(capsys, "generate", "--model", str(tmp_path / "a"), *ask)[:2] == of_recipe[:2]


def test_generate_and_chat(capsys, monkeypatch, artifact: str) -> None:
    ask = ["def main():", "--temperature", "0", "--max-tokens", "9", *SMALL]
    code, whole, _ = run(capsys, "generate", "--quant", "int8", "--skip-layers", "0,2.down", *ask)
    assert code == 0 and run(capsys, "generate", "--model", artifact, *ask)[1] == whole
    import io
    import sys

    monkeypatch.setattr(sys, "stdin", io.StringIO("sort a list\n"))
    assert run(capsys, "chat", "--model", artifact, "--max-tokens", "3", *SMALL)[0] == 0


def test_inspect_reads_the_manifest_and_names_another_path(capsys, artifact: str) -> None:
    facts = json.loads(run(capsys, "inspect", artifact, "--as-json")[1])
    assert facts["artifact"]["quant"] == "int8" and facts["artifact"]["skip_layers"] == ["0", "2.down"]
    assert facts["weights_bytes"] < 12e6 and facts["tokenizer"]["chat_template"]
    if available_paths()[0].startswith(("amx", "avx512-bf16")):
        choose_path("portable")
        try:
            shown = run(capsys, "inspect", artifact)[1]
        finally:
            choose_path("")
        assert "exported for cpu-2/bf16-" in shown and "computes here as cpu-2/" in shown


def test_inspect_prints_the_fingerprint_of_the_model_that_it_was_made_from(capsys, tmp_path: Path) -> None:
    """An artifact says what was counted when it was exported; of other models the weights are read, where that is asked for."""

    def fingerprint(*words: str) -> str:
        return next(line for line in run(capsys, "inspect", *words)[1].splitlines() if line.startswith("fingerprint"))

    assert run(capsys, "export", "mini", str(tmp_path / "a"), "--quant", "int8")[0] == 0
    assert len(read_manifest(tmp_path / "a").tensor_sums) > 40
    own = fingerprint(str(tmp_path / "a"))
    assert own == fingerprint("mini", "--quant", "int8", "--fingerprint") != fingerprint("mini", "--fingerprint")
    assert fingerprint("mini") == "fingerprint: --fingerprint reads the weights and prints it"
    assert json.loads(run(capsys, "inspect", str(tmp_path / "a"), "--as-json")[1])["fingerprint"] == own.split()[1]


def test_eval_and_bench(capsys, artifact: str, tmp_path: Path, monkeypatch) -> None:
    found = Ceilings(1e10, {"bfloat16": 1e11, "int8": 2e11}, 1, "kernels", 1 << 20)
    monkeypatch.setattr("brigade.bench.ceilings.measure_ceilings", lambda threads, device: found)
    (tmp_path / "t.txt").write_text("import os\nimport sys\n")
    out = tmp_path / "o.json"
    code, _, _ = run(capsys, "eval", artifact, "--text", str(tmp_path / "t.txt"), "--against", "mini", "--json", str(out))
    assert code == 0 and 0 < json.loads(out.read_text())["kl"]["mean"] < 0.01
    code, shown, _ = run(
        capsys, "bench", "throughput", "--model", artifact, "--num-requests", "2", "--prompt-length", "4", "8",
        "--output-length", "2", "3", *SMALL,
    )  # fmt: skip
    assert code == 0 and "int8" in shown
    code, shown, _ = run(
        capsys, "bench", "latency", "--model", artifact, "--batch-sizes", "1", "--prompt-length", "8", "--output-length", "2",
        "--repeats", "1",
    )  # fmt: skip
    assert code == 0 and "int8" in shown


BAD = {
    "quant": (["--quant", "int4"], "quant is int4"),
    "quant none": (["--quant", "none"], "quant is none"),
    "dtype": (["--dtype", "float32"], "drop dtype"),
    "random weights": (["--random-weights", "1"], "drop --random-weights"),
    "skip": (["--skip-layers", "1"], "drop --skip-layers"),
    "reference": (["--backend", "reference"], "packed for the kernels of the cpu backend; drop"),
    "exact off": (["--exact", "off"], "or drop exact"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_an_artifact_has_settled_is_not_asked_again(capsys, artifact: str, case: str) -> None:
    argv, words = BAD[case]
    code, shown, errors = run(capsys, "generate", "x", "--model", artifact, *argv)
    assert code == 2 and shown == "" and words in errors and errors.count("\n") == 1


REFUSED = {
    "place taken": (["mini", "@"], "is not an empty folder"),
    "no parent": (["mini", "@/none/out"], "in a folder that exists"),
    "no model": (["nowhere", "@/out"], "no model 'nowhere'"),
    "recipe without weights": (["345m", "@/out"], "give --random-weights"),
    "unknown scheme": (["mini", "@/out", "--quant", "int3"], "quant is 'int3'; it must be one of none, int8"),
    "skip without quant": (["mini", "@/out", "--skip-layers", "1"], "no effect without quant"),
    "an empty list": (["mini", "@/out", "--quant", "int8", "--skip-layers", ""], "with an empty name; write names such as 0"),
    "a name too long": (["mini", "@/" + 250 * "x"], "cannot write"),
    "no such layer": (["mini", "@/out", "--quant", "int8", "--skip-layers", "7"], "names '7'; the model has layers 0 to 6"),
    "no such part": (["mini", "@/out", "--quant", "int8", "--skip-layers", "3.gate"], "qkv, out, up, down"),
    "nothing left": (["mini", "@/out", "--quant", "int8", "--skip-layers", "0,1,2,3,4,5,6,head"], "leaves nothing to quantise"),
    "nothing left, part by part": (
        ["mini", "@/out", "--quant", "int4", "--skip-layers", "head,0.qkv,0.out,0.up,0.down,1,2,3,4,5,6"],
        "leaves nothing",
    ),
    "nothing left for others": (
        ["mini", "@/out", "--quant", "int8", "--skip-layers", "0,1,2,3,4,5,6", "--format", "compressed-tensors"],
        "is left to quantise",
    ),
    "a head that others never quantise": (
        ["mini", "@/out", "--quant", "int8", "--skip-layers", "1,head", "--format", "compressed-tensors"],
        "--skip-layers names head, which compressed-tensors never quantises",
    ),
    "others, skip without quant": (
        ["mini", "@/out", "--skip-layers", "1", "--format", "compressed-tensors"],
        "no effect without quant",
    ),
    "no tokens of a list": (["mini", "@/out", "--quant", "int8", "--skip-layers", "head,-1"], "names '-1'"),
    "bad dtype": (["mini", "@/out", "--dtype", "int8"], "dtype is 'int8'"),
    "artifact": (["%", "@/out"], "is an artifact already"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_exported_is_one_line(capsys, tmp_path: Path, artifact: str, case: str) -> None:
    argv, words = REFUSED[case]
    (tmp_path / "taken").write_text("")
    full = [str(tmp_path) + word[1:] if word.startswith("@") else word.replace("%", artifact) for word in argv]
    code, shown, errors = run(capsys, "export", *full)
    assert code == 2 and shown == "" and words in errors and errors.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"taken"}


def test_into_the_folder_one_stands_in_and_through_a_link(capsys, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    code, shown, errors = run(capsys, "export", "mini", ".")
    assert code == 0 and (tmp_path / "here" / "manifest.json").is_file(), errors
    monkeypatch.chdir(tmp_path)
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    code, shown, errors = run(capsys, "export", "mini", "link")
    assert code == 0 and (tmp_path / "target" / "manifest.json").is_file() and (tmp_path / "link").is_symlink(), errors


@pytest.fixture
def no_compiler(monkeypatch):
    """As on a machine where the kernels could not be built."""
    from brigade.backends.cpu import library

    monkeypatch.setattr(library, "find_kernels", lambda: None)
    for cached in (library.kernels, library._load):
        cached.cache_clear()
    yield
    monkeypatch.undo()
    for cached in (library.kernels, library._load):
        cached.cache_clear()


def test_tensors_are_copied_for_others_without_a_compiler(capsys, tmp_path: Path, no_compiler) -> None:
    code, shown, errors = run(capsys, "export", "mini", str(tmp_path / "out"), "--format", "compressed-tensors")
    assert code == 0 and "0 of 65 tensors in none" in shown, errors
    code, _, errors = run(capsys, "export", "mini", str(tmp_path / "q"), "--format", "compressed-tensors", "--quant", "int8")
    assert code == 2 and "the cpu backend was not built" in errors and errors.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
