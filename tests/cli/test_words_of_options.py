"""A refusal on the command line names options, and leaves usual words, quotes and paths as they are."""

from __future__ import annotations

import pytest

from brigade.cli.main import with_options
from tests.cli.test_coordinator import run

NAMES = ("kv_memory", "kv_blocks", "tp", "pp", "pp_layers", "quant", "model")
OPTIONS = {name: f"--{name.replace('_', '-')}" for name in NAMES} | {"import_modules": "--import"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kv_memory is 1.0 KiB; raise kv_memory or kv_blocks", "--kv-memory is 1.0 KiB; raise --kv-memory or --kv-blocks"),
        ("tp is 3, but this model takes tp 1", "--tp is 3, but this model takes tp 1"),
        ("pp_layers names 2 stages, but pp is 1; give pp, or drop pp_layers",
         "--pp-layers names 2 stages, but pp is 1; give --pp, or drop --pp-layers"),
        ("import_modules is 3", "--import is 3"),
        ("the model /a/kv_memory/b or 'kv_blocks' is unknown", "the model /a/kv_memory/b or 'kv_blocks' is unknown"),
        ("model of a kind", "model of a kind"),
    ],
)  # fmt: skip
def test_settings_are_called_by_their_options(text: str, words: str) -> None:
    assert with_options(text, OPTIONS) == words


def test_of_two_options_of_a_setting_the_one_of_its_name_is_said(capsys) -> None:
    code, _, error = run(capsys, "inspect", "--context", "5000")
    assert code == 2 and error.startswith("brigade: error: --max-model-len is 5000, but the model was made for 1024 positions")
