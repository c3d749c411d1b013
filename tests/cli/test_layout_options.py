"""Layouts on the command line: what `inspect` says of one, and one line for each that cannot be, before any process is started."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from brigade import LLM
from brigade.backends.cpu.library import find_kernels
from brigade.cli.main import main
from brigade.errors import UserError
from tests.cli.test_cli import run

needs_kernels = pytest.mark.skipif(find_kernels() is None, reason="the C++ kernels are not built: no compiler on this machine")


@pytest.fixture
def no_process(monkeypatch) -> None:
    """Whoever starts one fails the test, and not by an error that a command turns into a line."""

    def start(*arguments, **options) -> None:
        pytest.fail(f"a process was started: {arguments}")

    monkeypatch.setattr(subprocess, "Popen", start)


GENERATE = ("generate", "x", "--max-tokens", "1", "--kv-blocks", "32")
BAD = {
    "three ranks": (("--tp", "3"), "tp is 3, but sums over ranks are a tree of 8 blocks; this model takes tp 1, 2, 4 or 8"),
    "sixteen ranks": (("--tp", "16"), "tp is 16"),
    "no rank": (("--tp", "0"), "tp is 0; it must be an integer above 0"),
    "too many stages": (("--pp", "8"), "pp is 8, but the model has 7 layers; each stage needs one: choose 1 to 7"),
    "layers of no stage": (("--pp-layers", "3,4"), "but pp is 1; give --pp, or drop --pp-layers"),
    "layers of three stages": (("--pp", "2", "--pp-layers", "3,2,2"), "for 3 stages, but pp is 2"),
    "layers that are not there": (("--pp", "2", "--pp-layers", "3,3"), "whose sum is the model's 7 layers"),
    "no list": (("--pp", "2", "--pp-layers", "3;4"), "'3;4' is no list of numbers"),
    "no patience": (("--tp", "2", "--rank-timeout", "0"), "--rank-timeout is 0.0; it must be a number of seconds above 0"),
    "no number": (("--tp", "2", "--rank-timeout", "nan"), "--rank-timeout is nan"),
    "patience with nobody": (("--rank-timeout", "5"), "there is one rank, so it has no effect"),
    "an exchange with nobody": (("--exchange", "group"), "there is one rank, so it has no effect"),
    "too many threads": (("--tp", "2", "--threads", "4096"), "threads is 4096"),
    "processors twice": (("--tp", "2", "--threads", "1", "--cpus", "0"), "give one of them"),
    "a module that is nowhere": (("--tp", "2", "--import", "no_such_module"), "--import no_such_module: No module named"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_one_line_and_no_process(case: str, capsys, no_process) -> None:
    options, words = BAD[case]
    code, output, errors = run(capsys, *GENERATE, *options)
    assert code == 2 and output == "" and errors.count("\n") == 1 and errors.startswith("brigade: error: ") and words in errors


@needs_kernels
def test_fewer_processors_than_ranks(capsys, no_process) -> None:
    code, _, errors = run(capsys, *GENERATE, "--tp", "2", "--pp", "2", "--cpus", "0")
    assert code == 2 and errors.count("\n") == 1 and "1 processors for 4 ranks; name one for each rank" in errors


def test_processors_for_a_backend_that_pins_none(capsys, no_process) -> None:
    code, _, errors = run(capsys, *GENERATE, "--tp", "2", "--cpus", "0,1", "--backend", "reference")
    assert code == 2 and errors.count("\n") == 1 and "pins no threads" in errors


def test_shared_memory_needs_the_kernels(capsys, monkeypatch, no_process) -> None:
    monkeypatch.setattr("brigade.parallel.setup.find_kernels", lambda: None)
    code, _, errors = run(capsys, *GENERATE, "--tp", "2", "--exchange", "shared", "--backend", "reference")
    assert code == 2 and errors.splitlines()[-1].endswith("the C++ kernels are not built; choose auto or group")
    assert errors.count("\n") == 1


@pytest.mark.parametrize("command", [("chat",), ("eval", "--text", "README.md"), ("bench", "throughput"), ("bench", "latency")])
def test_every_command_that_runs_a_model_takes_a_layout(command, capsys, no_process) -> None:
    code, _, errors = run(capsys, *command, "--tp", "3")
    assert code == 2 and "tp is 3" in errors and errors.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tp": 2.0}, "tp is 2.0"), ({"tp": True}, "tp is True"), ({"pp": "2"}, "pp is '2'"),
        ({"pp": 2, "pp_layers": [7, 0]}, "pp_layers is 7,0"), ({"tp": 2, "exchange": "telepathy"}, "exchange is 'telepathy'"),
        ({"tp": 2, "rank_timeout": "5"}, "rank_timeout is '5'"), ({"tp": 2, "import_modules": ["no.such"]}, "--import no.such"),
    ],
)  # fmt: skip
def test_mistakes_of_python_are_one_line_and_no_process(settings, words: str, no_process) -> None:
    with pytest.raises(UserError, match="(?s)" + words) as caught:
        LLM(kv_blocks=32, **settings)
    assert "\n" not in str(caught.value)


@needs_kernels
def test_inspect_shows_what_each_rank_holds(capsys, no_process) -> None:
    code, text, _ = run(capsys, "inspect", "--tp", "2", "--pp", "2")
    assert code == 0 and "layout: tp 2 x pp 2, 4 ranks; rank 0 leads" in text
    held, given = text.split("layout: ")[1].split("what a rank gives to others for one token:")
    rows = [line.split() for line in held.splitlines()[2:5]]
    shown = [" ".join(row[:2] + row[5:7]) for row in rows]
    assert shown == ["0 1 4 2", "1 1 4 2", "2-3 0 4 2"], "ranks, stage, heads, key-value heads"
    assert [line.split()[0] for line in given.splitlines()[2:4]] == ["0-1", "2-3"]
    facts = json.loads(run(capsys, "inspect", "--tp", "2", "--pp", "2", "--as-json")[1])["ranks"]
    assert [one["vocabulary"] for one in facts] == [[0, 2048], [2048, 4096], None, None]
    first, last = facts[2]["layers"], facts[0]["layers"]
    assert (first[0], last[1]) == (0, 6) and first[1] + 1 == last[0] and facts[3]["layers"] == first
    whole = json.loads(run(capsys, "inspect", "--as-json")[1])
    assert whole["weights_bytes"] < sum(one["weights_bytes"] for one in facts) < 1.7 * whole["weights_bytes"], (
        "the tied table twice"
    )


@needs_kernels
def test_inspect_says_whether_it_fits_and_which_layout_would(capsys, no_process) -> None:
    ask = ("inspect", "gpt-1.3b", "--quant", "int8", "--context", "512", "--batch", "4")
    text = run(capsys, *ask, "--device-memory", "2GiB")[1]
    assert "steps of 512 tokens and a cache for 4 requests of 512 positions fit into 2.0 GiB; it leaves" in text
    assert "smallest layout that fits: tp 1 x pp 1, 1 rank" in text
    text = run(capsys, *ask, "--device-memory", "800MiB", "--tp", "2")[1]
    assert "do not fit into 800.0 MiB; rank 0 needs" in text and "a cache of " in text
    assert "smallest layout that fits: tp 4 x pp 1, 4 ranks" in text
    text = run(capsys, *ask, "--device-memory", "1M")[1]
    assert "and has no room for any cache" in text and "smallest layout: none" in text

    def facts(*more: str) -> dict:
        return json.loads(run(capsys, *ask, "--tp", "2", "--as-json", *more)[1])

    small, large = facts("--device-memory", "800M"), facts("--device-memory", "2G", "--batch", "8")
    assert not small["memory"]["fits"] and small["memory"]["smallest_layout"] == {"tp": 4, "pp": 1}
    assert large["memory"]["fits"] and (large["memory"]["batch"], large["memory"]["context"]) == (8, 512)
    for few, many in zip(small["ranks"], large["ranks"], strict=True):
        assert many["cache_bytes"] == 2 * few["cache_bytes"] > 0 and many["weights_bytes"] == few["weights_bytes"]
        parts = [few[f"{name}_bytes"] for name in ("weights", "tables", "activations", "shared", "cache")]
        assert few["whole_bytes"] == sum(parts) and few["token_bytes"]["layers"] == 24 * 2 * (4 * 2048 + 4)
    assert facts("--max-batch-size", "8")["memory"]["batch"] == 8, "one setting, two names"


@needs_kernels
def test_inspect_counts_an_artifact_as_the_model_that_it_was_made_of(capsys, tmp_path: Path, no_process) -> None:
    made = str(tmp_path / "made")
    assert run(capsys, "export", "mini", made, "--quant", "int4", "--skip-layers", "2.down")[0] == 0
    for layout in ((), ("--tp", "2", "--pp", "2")):
        ask = (*layout, "--device-memory", "1G", "--as-json")
        ranks = json.loads(run(capsys, "inspect", made, *ask)[1])["ranks"]
        packed = json.loads(run(capsys, "inspect", "mini", "--quant", "int4", "--skip-layers", "2.down", *ask)[1])["ranks"]
        assert [{**one, "repacked": []} for one in ranks] == packed


def test_inspect_without_a_size_looks_at_this_machine(capsys, monkeypatch, no_process) -> None:
    monkeypatch.setattr("brigade.backends.base.Backend.free_memory", lambda self: 1 << 30)
    text = run(capsys, "inspect", "--batch", "1")[1]
    assert "fit into 1.0 GiB that this machine has free; it leaves" in text
    text = run(capsys, "inspect", "--batch", "1", "--tp", "2")[1]
    assert "fit into 512.0 MiB that this machine has free for each rank; rank 0 leaves" in text
    assert "tp 1 x pp 1, 1 rank, were there a machine like this one for each rank" in text


@needs_kernels
def test_inspect_names_what_is_copied(capsys, tmp_path: Path) -> None:
    """Rows 0 to 49 of 100: the border lies inside of a panel of 32 outputs."""
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        "num_layers: 1\nhidden_size: 64\nnum_heads: 2\nnum_kv_heads: 2\nhead_dim: 32\nffn_size: 128\nvocab_size: 100\n"
        "max_positions: 64\nrope: {rotary_dim: 32}\ntied_head: false\n"
    )
    artifact, said = str(tmp_path / "artifact"), "cut inside a panel of 32 outputs, so copied out of the artifact: "
    assert run(capsys, "export", str(recipe), artifact, "--random-weights", "0")[0] == 0
    text = run(capsys, "inspect", artifact, "--tp", "2")[1]
    assert "head" in text.split(said)[1].splitlines()[0]
    assert said not in run(capsys, "inspect", artifact)[1]
    assert said not in run(capsys, "inspect", str(recipe), "--tp", "2")[1], "a rank packs its own share of it"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--tp", "3"), "tp is 3"),
        (("--pp", "9"), "pp is 9"),
        (("--tp", "2", "--exchange", "group"), "which starts no rank"),
        (("--device-memory", "80 elephants"), "is no size; write bytes, or a number with KiB, MiB or GiB, such as 80GiB"),
        (("--device-memory", "0"), "--device-memory is 0 bytes"),
        (("--context", "5000"), "--max-model-len is 5000, but the model was made for 1024 positions"),
        (("--batch", "0"), "--max-batch-size is 0"),
    ],
)
def test_inspect_of_a_layout_that_cannot_be(options, words: str, capsys) -> None:
    code, text, errors = run(capsys, "inspect", *options)
    assert code == 2 and text == "" and errors.count("\n") == 1 and words in errors


def test_verify_takes_ranks_too(capsys, no_process) -> None:
    assert main(["verify", "check", "mini-layouts", "--tp", "3"]) == 2
    assert "tp is 3" in capsys.readouterr().out
