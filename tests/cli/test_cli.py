"""The command line: what it prints, and one line with exit code 2 for everything a person can get wrong."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from brigade import LLM
from brigade.backends.cpu.library import default_path, find_kernels
from brigade.cli.main import main

SMALL = ["--kv-blocks", "32"]


def run(capsys, *argv: str) -> tuple[int, str, str]:
    code = main(list(argv))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_streaming_prints_what_generating_does(capsys) -> None:
    ask = ["def main():", "--temperature", "0", "--max-tokens", "12", *SMALL]
    code, whole, plan = run(capsys, "generate", *ask)
    assert code == 0 and plan.startswith("memory:")
    assert run(capsys, "generate", "--stream", *ask)[1] == whole
    assert run(capsys, "generate", "--engine", "static", *ask)[1] == whole


def test_a_prompts_file_and_its_json(capsys, tmp_path: Path) -> None:
    prompts, out = tmp_path / "p.jsonl", tmp_path / "out.json"
    prompts.write_text('{"text": "import os", "max_tokens": 3}\n\n{"token_ids": [1, 2, 3], "logprobs": 2, "seed": 7}\n')
    code, text, _ = run(capsys, "generate", "--prompts-file", str(prompts), "--json", str(out), "--max-tokens", "5", *SMALL)
    assert code == 0 and text.count("--- prompt") == 2
    facts = json.loads(out.read_text())
    first, second = facts["requests"]["0"], facts["requests"]["1"]
    assert first["prompt"] == "import os" and len(first["samples"][0]["token_ids"]) <= 3
    assert second["samples"][0]["seed"] == 7 and len(second["samples"][0]["logprobs"][0]["top"]) == 2
    assert facts["throughput"] > 0 and facts["peak_memory"] > 0 and facts["numerics_id"].endswith("/weights-bfloat16")


def test_standard_input_is_a_prompt(capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"import "), "utf-8"))
    assert run(capsys, "generate", "--max-tokens", "2", *SMALL)[0] == 0


def test_ids_in_ids_out_without_a_tokenizer(capsys, tmp_path: Path) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        "num_layers: 1\nhidden_size: 16\nnum_heads: 2\nnum_kv_heads: 2\nhead_dim: 8\nffn_size: 32\nvocab_size: 40\n"
        "max_positions: 64\nrope: {rotary_dim: 8}\n"
    )
    code, text, _ = run(
        capsys, "generate", "--model", str(recipe), "--random-weights", "1", "--token-ids", "1 2 3", "--max-tokens", "4"
    )
    assert code == 0 and len(text.split()) == 4 and all(word.isdigit() for word in text.split())


def test_an_inexact_backend_is_named(capsys) -> None:
    ask = ["generate", "x", "--exact", "off", "--backend", "reference", "--max-tokens", "1", "--json", "/dev/null", *SMALL]
    assert run(capsys, *ask)[0] == 0


def test_a_recipe_runs_in_bfloat16_and_the_first_line_of_its_table_says_so(capsys, tmp_path: Path) -> None:
    load = ["--num-requests", "1", "--prompt-length", "2", "2", "--output-length", "1", "1"]
    argv = ["bench", "throughput", "--model", _recipe(tmp_path), "--random-weights", "1", *load]
    first = run(capsys, *argv)[1].splitlines()[0]
    assert "weights: bfloat16" in first and "cache: bfloat16" in first
    first = run(capsys, *argv, "--dtype", "float32")[1].splitlines()[0]
    assert "weights: float32; arithmetic: float32; cache: float32" in first


def test_chat_through_a_pipe(capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("sort a list\n/reset\n/nonsense\n/exit\n"))
    code, text, _ = run(capsys, "chat", "--max-tokens", "6", "--seed", "1", *SMALL)
    assert code == 0 and "unknown command /nonsense" in text


def test_a_chat_too_long_is_refused_and_goes_on(capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("word " * 3000 + "\nhello\n"))
    code, said, errors = run(capsys, "chat", "--max-tokens", "2", *SMALL)
    assert code == 1 and "exceed the limit of 1024" in errors and said.strip()
    assert "raise" not in errors and "--drop-oldest" not in errors, "neither would help"


def test_a_question_that_is_too_long_forgets_no_older_one(capsys, monkeypatch) -> None:
    """Also where the oldest may be dropped: without them it was too long as well."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("sort a list\n" + "word " * 3000 + "\nagain\n"))
    asked, write = [], LLM.chat_prompt
    monkeypatch.setattr(LLM, "chat_prompt", lambda self, messages: asked.append(len(messages)) or write(self, messages))
    code, _, errors = run(capsys, "chat", "--max-tokens", "2", "--drop-oldest", "--temperature", "0", *SMALL)
    assert code == 1 and errors.count("exceed the limit") == 1 and asked == [1, 3, 2, 1, 3]


@pytest.mark.parametrize("name", ["gpt-345m", "175b", "12b"])
def test_inspect_shows_a_recipe_without_its_weights(capsys, name: str) -> None:
    code, text, _ = run(capsys, "inspect", name)
    assert code == 0 and "layers.0-" in text and "parameters" in text and "memory:" in text


def test_inspect_and_env_as_json(capsys) -> None:
    facts = json.loads(run(capsys, "inspect", "--as-json")[1])
    assert facts["tokenizer"]["ids"] == 4096 and facts["parameters"] > 5e6
    facts = json.loads(run(capsys, "env", "--as-json")[1])
    assert facts["packages"]["torch"] and facts["backends"]["reference"].startswith("reference-3")


@pytest.mark.skipif(find_kernels() is None, reason="the C++ kernels are not built: no compiler on this machine")
def test_env_names_the_kernels(capsys) -> None:
    facts = json.loads(run(capsys, "env", "--as-json")[1])
    found = facts["kernels"]
    assert found["path"] == default_path() and found["paths here"].split()[-1] == "portable"
    assert found["pool"] == "1 thread, not pinned", "what the tests are run with"
    assert facts["backends"]["cpu"].startswith("cpu-2/bf16-")
    assert facts["threads"] == {
        "cpu backend": "1 thread, not pinned (the kernels' own pool)", "reference backend": "1 of torch",
        "computing by default": "the cpu backend",
    }  # fmt: skip
    assert "portable" in run(capsys, "env")[1]


def bad_utf8(tmp_path: Path) -> list[str]:
    (tmp_path / "bad.jsonl").write_bytes(b'{"text": "ok"}\n{"text": "\xff"}\n')
    return ["generate", "--prompts-file", str(tmp_path / "bad.jsonl")]


def lines(content: str):
    def make(tmp_path: Path) -> list[str]:
        (tmp_path / "p.jsonl").write_text(content)
        return ["generate", "--prompts-file", str(tmp_path / "p.jsonl")]

    return make


def words(*argv: str):
    return lambda tmp_path: [str(tmp_path) + word[1:] if word.startswith("@") else word for word in argv]


BAD = {
    "invalid UTF-8": (bad_utf8, "bad.jsonl:2 is not UTF-8 (byte 0xff"),
    "invalid JSON": (lines("{"), "p.jsonl:1 is not valid JSON"),
    "unknown key": (lines('{"text": "a", "colour": 1}'), "has the unknown key 'colour'"),
    "no object": (lines('[1, 2]'), "is [1, 2], which is no object"),
    "a folder of prompts": (words("generate", "--prompts-file", "@/"), "give a file of prompts"),
    "output into the system": (words("generate", "x", "--json", "/proc/x.json"), "cannot write /proc/x.json: "),
    "output is open": (words("generate", "x", "--json", "/proc/self/fd/77"), "cannot write /proc/self/fd/77: it is a file that is"),
    "no such backend": (words("generate", "x", "--backend", "gpu"), "unknown backend 'gpu'; known: auto, "),
    "bits without kernels": (
        words("generate", "x", "--backend", "reference", "--numerics", "bf16-fma"), "drop numerics, or take backend cpu"),
    "more than the model has": (words("generate", "x", "--max-tokens", "2000"), "shorten the prompt or lower max_tokens"),
    "two prompts in a line": (lines('{"text": "a", "token_ids": [1]}'), "exactly one"),
    "empty file": (lines("\n"), "holds no prompt"),
    "too many threads": (words("generate", "x", "--threads", "4096"), "threads is 4096; this process may use"),
    "no such device": (words("generate", "x", "--device", "tpu"), "device is 'tpu', which torch cannot use here; use cpu"),
    "no values there": (words("generate", "x", "--device", "meta"), "device is 'meta', which torch cannot use here; use cpu"),
    "no such processor": (words("generate", "x", "--cpus", "4096", "--backend", "cpu"), "may not use processor 4096"),
    "processors of nobody": (words("generate", "x", "--cpus", "0", "--backend", "reference"), "pins no threads"),
    "processors to inspect": (words("inspect", "--cpus", "0"), "--cpus has no effect"),
    "weights to inspect": (words("inspect", "345m", "--random-weights", "0"), "no effect on inspect without --fingerprint"),
    "a recipe's fingerprint": (words("inspect", "345m", "--fingerprint"), "give --random-weights SEED"),
    "a queue to inspect": (words("inspect", "--max-waiting", "5"), "--max-waiting has no effect on inspect"),
    "a queue to chat with": (words("chat", "--max-waiting", "5"), "--max-waiting has no effect on chat"),
    "bad value in a line": (lines('{"text": "a", "top_p": 7}'), "top_p is 7"),
    "no such file": (words("generate", "--prompts-file", "@/none"), "none"),
    "unwritable output": (words("generate", "x", "--json", "@/none/out.json"), "cannot write"),
    "output is a folder": (words("generate", "x", "--json", "@/"), "cannot write"),
    "empty prompt": (words("generate", ""), "0 tokens"),
    "prompt over the limit": (words("generate", "word " * 3000), "exceed the limit of 1024"),
    "bad value": (words("generate", "x", "--temperature", "-1"), "temperature is -1.0"),
    "no number": (words("generate", "x", "--top-k", "many"), "--top-k"),
    "unknown option": (words("generate", "x", "--colour"), "--colour"),
    "another's option": (words("generate", "x", "--tensor-parallel-size", "2"), "is an option of vLLM: give --tp; see"),
    "a slip": (words("generate", "x", "--max-tokns", "2"), "the nearest to --max-tokns is --max-tokens; see"),
    "unknown command": (words("paint"), "paint"),
    "no command": (words(), "COMMAND"),
    "an inexact backend that nobody named": (words("generate", "x", "--exact", "off"), "add backend reference, or drop exact"),
    "an inexact cpu": (words("generate", "x", "--exact", "off", "--backend", "cpu"), "exact off has no effect on the cpu backend"),
    "bad ids": (words("generate", "--token-ids", "1 b"), "no list of integers"),
    "id outside": (words("generate", "--token-ids", "99999"), "vocabulary of 4096"),
    "stream of two": (words("generate", "a", "b", "--stream"), "--stream"),
    "useless cache": (words("generate", "a", "--engine", "static", "--no-prefix-cache"), "no effect on the static engine"),
    "useless seed of weights": (words("generate", "a", "--random-weights", "1"), "drop --random-weights"),
    "recipe without weights": (words("generate", "--token-ids", "1", "--model", "345m"), "give --random-weights"),
    "text without tokenizer": (lambda p: ["generate", "hi", "--model", _recipe(p), "--random-weights", "1"], "no tokenizer"),
    "no model": (words("generate", "a", "--model", "nowhere"), "no model 'nowhere'"),
    "bad size": (words("generate", "a", "--kv-memory", "lots"), "'lots' is no size"),
    "too little memory": (words("generate", "a", "--kv-memory", "5"), "below one block"),
    "two models": (words("inspect", "345m", "--model", "175b"), "twice"),
    "inspect with threads": (words("inspect", "--threads", "2"), "no effect"),
    "two arrivals": (words("bench", "throughput", "--requests-per-step", "1", "--requests-per-second", "1"), "give one"),
    "rate without duration": (words("bench", "throughput", "--requests-per-second", "1"), "duration"),
    "lengths reversed": (words("bench", "throughput", "--prompt-length", "9", "3"), "lower bound first"),
    "useless count": (
        words("bench", "throughput", "--requests-per-second", "9", "--duration", "1", "--num-requests", "4"), "no effect"),
    "useless lengths": (words("bench", "throughput", "x", "--prompt-length", "3", "9"), "no effect"),
    "chat with samples": (words("chat", "--n", "2"), "one answer"),
}  # fmt: skip


def _recipe(folder: Path) -> str:
    file = folder / "small.yaml"
    file.write_text(
        "num_layers: 1\nhidden_size: 16\nnum_heads: 2\nnum_kv_heads: 2\nhead_dim: 8\nffn_size: 32\nvocab_size: 40\n"
        "max_positions: 64\nrope: {rotary_dim: 8}\n"
    )
    return str(file)


REFUSED_EARLY = {
    "a text": (["generate", "hi"], "no tokenizer, so a text prompt cannot be read; give token ids"),
    "an id outside": (["generate", "--token-ids", "40"], "token id 40 is outside the vocabulary of 40"),
    "one of two": (["generate", "--token-ids", "1", "--token-ids", "40"], "prompt 1: token id 40 is outside"),
    "too many tokens": (["generate", "--token-ids", "1", "--max-tokens", "64"], "exceed the limit of 64 positions"),
    "a chat": (["chat"], "no chat template either"),
    "more at once than may wait": (["generate", "--token-ids", "1", "--n", "3", "--max-waiting", "2"], "3 requests came at once"),
}


@pytest.mark.parametrize("case", REFUSED_EARLY)
def test_what_a_model_cannot_serve_is_refused_before_its_weights_are_made(case: str, capsys, tmp_path, monkeypatch) -> None:
    """Those of a large recipe take minutes."""
    argv, expected = REFUSED_EARLY[case]
    monkeypatch.setattr("brigade.assembly.line.fill", lambda *_: pytest.fail("weights were made"))
    code, _, errors = run(capsys, *argv, "--model", _recipe(tmp_path), "--random-weights", "1")
    assert code == 2 and expected in errors


@pytest.mark.parametrize("case", BAD)
def test_wrong_input_is_one_line_and_code_2(case: str, capsys, tmp_path: Path) -> None:
    make, expected = BAD[case]
    code, _, errors = run(capsys, *make(tmp_path))
    final = errors.strip().splitlines()[-1]
    assert code == 2
    assert final.startswith("brigade: error: ") and expected in final
    assert sum(line.startswith("brigade: error") for line in errors.splitlines()) == 1
    assert "Traceback" not in errors


def test_a_checkpoint_that_is_broken_is_one_line_too(capsys, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    code, _, errors = run(capsys, "generate", "x", "--model", str(tmp_path))
    assert code == 2 and errors.count("\n") == 1 and "not valid JSON" in errors


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        main(["generate", "x", "--model", "nowhere", "--debug"])


def test_as_a_process_from_start_to_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "brigade.cli.main", "generate", "x", "--model", "nowhere"], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m brigade.cli.main inspect 345m | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert "Traceback" not in done.stderr and done.stdout.startswith("gpt-345m")


def test_a_command_is_not_told_what_the_server_alone_knows(capsys) -> None:
    for option in ("--trust-remote-code", "--jinja", "--max-num-seqs"):
        code, _, errors = run(capsys, "control", "status", option)
        assert code == 2 and option in errors and "is an option of" not in errors
