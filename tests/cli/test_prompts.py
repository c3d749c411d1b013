"""What is wrong with a line of a prompts file is said in one line, with the file and the line's number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from brigade.cli.main import main

BAD = {
    "a word as a key": ('{"text": "a", "logit_bias": {"the": 1}}', 'has "the" as a key of logit_bias'),
    "a fraction as a key": ('{"text": "a", "logit_bias": {"1.5": 1}}', 'has "1.5" as a key of logit_bias'),
    "an id below zero": ('{"text": "a", "logit_bias": {"-1": 1}}', 'has "-1" as a key of logit_bias'),
    "another script's digits": ('{"text": "a", "logit_bias": {"\u0661": 1}}', "as a key of logit_bias; it must be a token id"),
    "a list as bias": ('{"text": "a", "logit_bias": [1, 2]}', "has [1, 2] as logit_bias; it must be an object"),
    "nothing as bias": ('{"text": "a", "logit_bias": null}', "has null as logit_bias; it must be an object"),
    "a word as a bias": ('{"text": "a", "logit_bias": {"1": "much"}}', 'logit_bias of token 1 is "much"'),
    "a bias without end": ('{"text": "a", "logit_bias": {"1": Infinity}}', "logit_bias of token 1 is Infinity"),
    "a value out of range": ('{"text": "a", "top_p": 7}', "top_p is 7"),
    "a word as a number": ('{"text": "a", "temperature": "hot"}', 'temperature is "hot"'),
    "a number as stop": ('{"text": "a", "stop": 5}', "stop is 5"),
    "words as ids": ('{"token_ids": ["1", "2"]}', 'has ["1", "2"] as token_ids; it must be a list of ids'),
    "fractions as ids": ('{"token_ids": [1.5]}', "has [1.5] as token_ids; it must be a list of ids"),
    "truths as ids": ('{"token_ids": [true]}', "has [true] as token_ids; it must be a list of ids"),
    "text as ids": ('{"token_ids": "1 2"}', 'has "1 2" as token_ids; it must be a list of ids'),
    "a number as text": ('{"text": 5}', "has 5 as text; it must be a string or a list of ids"),
    "half of a pair": ('{"text": "a\\ud83d"}', "half of a surrogate pair in text at 1"),
    "digits without end": ('{"text": "a", "seed": ' + 5000 * "9" + "}", "is no JSON that can be read"),
    "another kind of constraint": ('{"text": "a", "constraint": {"xml": "b"}}', 'constraint is of the kind "xml"'),
    "a keyword that is not done": (
        '{"text": "a", "constraint": {"json_schema": {"if": {}}}}', "has the keyword 'if' at #, which is not supported there",
    ),
    "brackets without end": (100_000 * "[", "is no JSON that can be read"),
}  # fmt: skip


@pytest.mark.parametrize("command", [["generate"], ["bench", "throughput"]], ids=" ".join)
@pytest.mark.parametrize("case", BAD)
def test_a_bad_line_is_named(case: str, command: list[str], tmp_path: Path, capsys) -> None:
    line, words = BAD[case]
    file = tmp_path / "p.jsonl"
    file.write_text('{"text": "a good one"}\n\n' + line + "\n", encoding="utf-8")
    assert main([*command, "--prompts-file", str(file)]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"brigade: error: {file}:3 ") and words in errors and errors.count("\n") == 1


def test_a_good_bias_is_taken(tmp_path: Path, capsys) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"text": "a", "logit_bias": {"42": 100, "7": -1.5}, "temperature": 0, "max_tokens": 2}\n')
    assert main(["generate", "--prompts-file", str(file), "--kv-blocks", "8", "--json", str(tmp_path / "o.json")]) == 0
    assert '"token_ids": [\n      42,\n      42\n' in (tmp_path / "o.json").read_text()


def test_a_constraint_is_taken(tmp_path: Path, capsys) -> None:
    file = tmp_path / "p.jsonl"
    schema = '{"type": "object", "properties": {"a": {"enum": [[1], 2]}}, "required": ["a"], "additionalProperties": false}'
    second = '{"text": "y = ", "max_tokens": 40, "temperature": 0, "constraint": {"json_schema": ' + schema + "}}\n"
    file.write_text('{"text": "x = ", "constraint": {"choice": ["yes", "no"]}}\n' + second)
    assert main(["generate", "--prompts-file", str(file), "--kv-blocks", "8", "--json", str(tmp_path / "o.json")]) == 0
    requests = json.loads((tmp_path / "o.json").read_text())["requests"]
    chosen, object_ = (requests[name]["samples"][0]["text"] for name in ("0", "1"))  # an object may be written over several lines
    assert chosen in ("yes", "no") and json.loads(object_)["a"] in ([1], 2)


def test_a_grammar_that_cannot_be_compiled_is_named_before_the_weights_are_read(tmp_path: Path, capsys, monkeypatch) -> None:
    from brigade.assembly import assemble

    monkeypatch.setattr(assemble, "load", lambda *_: pytest.fail("the weights were read"))
    file = tmp_path / "p.jsonl"
    file.write_text('{"text": "a"}\n{"text": "b", "constraint": {"grammar": "start: a b\\na: /x/"}}\n')
    assert main(["generate", "--prompts-file", str(file)]) == 2
    errors = capsys.readouterr().err
    assert "prompt 1" in errors and 'at 1(8): unknown name: "b"' in errors and errors.count("\n") == 1
