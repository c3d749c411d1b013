"""A text longer than the model, cut so that every token is scored once, with context before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from brigade.errors import ConfigError


@dataclass(frozen=True)
class WindowConfig:
    """`size` is the most tokens of one forward pass, `stride` how many a later window scores; what is left is context."""

    size: int
    stride: int
    lead: bool = False  # later windows begin with the first token too, for models that never saw a text without it

    def __post_init__(self) -> None:
        least = 2 if self.lead else 1
        if self.size < least:
            raise ConfigError(f"window is {self.size}; it must be {least} or more")
        if not 1 <= self.stride <= self.room:
            lead = ", less one for the token that begins each window" if self.lead else ""
            raise ConfigError(
                f"stride is {self.stride}; it must be 1 to {self.room} (the window{lead}), or some tokens were never scored"
            )

    @property
    def room(self) -> int:
        """Tokens of the text that a later window holds."""
        return self.size - self.lead


@dataclass(frozen=True, slots=True)
class Window:
    """Reads the tokens `start` to `end` - 1 and scores those from `first` to `end`: the last one it reads predicts the next."""

    start: int
    end: int
    first: int
    lead: bool = False

    def inputs(self, ids: Sequence[int]) -> list[int]:
        own = list(ids[self.start : self.end])
        return [ids[0], *own] if self.lead else own

    def targets(self, ids: Sequence[int]) -> list[int]:
        return list(ids[self.first : self.end + 1])

    @property
    def row(self) -> int:
        """The row of this window's logits that predicts the first scored token."""
        return self.first - 1 - self.start + self.lead


def cut_windows(length: int, config: WindowConfig) -> list[Window]:
    """Windows over `length` tokens. All but the first token are scored; a later window's scored tokens have at least
    `size` - `stride` tokens before them."""
    if length < 2:
        raise ConfigError(f"the text has {length} tokens; 2 are needed, one to predict from and one to score: give a longer text")
    last = length - 1
    windows = [Window(0, min(config.size, last), 1)]
    while windows[-1].end < last:
        end = min(windows[-1].end + config.stride, last)
        windows.append(Window(end - config.room, end, windows[-1].end + 1, config.lead))
    return windows
