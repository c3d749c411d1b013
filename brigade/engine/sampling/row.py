"""What the sampler must know of a request: all that a token may depend on besides the logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from brigade.engine.sampling.params import SamplingParams

if TYPE_CHECKING:
    from brigade.engine.constraint.matcher import Matcher


class SampleRow(Protocol):
    @property
    def params(self) -> SamplingParams: ...
    @property
    def seed(self) -> int: ...
    @property
    def position(self) -> int: ...
    @property
    def prompt_token_ids(self) -> Sequence[int]: ...
    @property
    def output_token_ids(self) -> Sequence[int]: ...
    @property
    def eos_ids(self) -> tuple[int, ...]: ...
    @property
    def matcher(self) -> Matcher | None: ...  # asked of a constrained row alone
