"""Every token is scored exactly once, with context, whatever the window and the stride."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brigade.errors import ConfigError
from brigade.evaluate.windows import WindowConfig, cut_windows


@given(st.data())
def test_every_token_is_scored_once_with_context(data) -> None:
    size, lead = data.draw(st.integers(2, 40)), data.draw(st.booleans())
    config = WindowConfig(size, data.draw(st.integers(1, size - lead)), lead)
    ids = list(range(100, 100 + data.draw(st.integers(2, 200))))
    scored = []
    for window in cut_windows(len(ids), config):
        inputs, targets = window.inputs(ids), window.targets(ids)
        assert 1 <= len(inputs) <= size and targets
        assert len(inputs) - window.row == len(targets)  # the rows from `row` on are read, one for each target
        assert inputs[window.row + 1 :] == targets[:-1]  # each row's next token is its target
        assert inputs[0] == ids[0] or not (lead or window.start == 0)
        assert window.row == 0 if window.start == 0 else window.row >= size - config.stride
        scored += targets
    assert scored == ids[1:]


def test_a_short_text_is_one_window() -> None:
    (window,) = cut_windows(5, WindowConfig(64, 1))
    assert window.inputs("abcde") == list("abcd") and window.targets("abcde") == list("bcde") and window.row == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [((0, 1), "window is 0"), ((8, 0), "stride is 0"), ((8, 9), "1 to 8"), ((8, 8, True), "1 to 7"), ((1, 1, True), "2 or more")],
)
def test_windows_are_refused_with_their_limits(settings, words) -> None:
    with pytest.raises(ConfigError, match=words):
        WindowConfig(*settings)


def test_a_single_token_cannot_be_scored() -> None:
    with pytest.raises(ConfigError, match="1 tokens; 2 are needed"):
        cut_windows(1, WindowConfig(8, 8))
