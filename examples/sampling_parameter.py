"""Another sampling parameter: `no_repeat`, which forbids the ids of the last so many tokens."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from brigade import register_parameter
from brigade.engine.sampling.row import SampleRow


def check(value: Any) -> str | None:
    good = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 64
    return None if good else "it must be an integer from 1 to 64"


def process(logits_V: Tensor, value: int, row: SampleRow) -> Tensor:
    recent = list(row.output_token_ids)[-value:]
    if recent:
        logits_V[recent] = float("-inf")
    return logits_V


register_parameter("no_repeat", check, process)


def main() -> None:
    from brigade import LLM, SamplingParams

    params = SamplingParams(temperature=0.0, max_tokens=24, extra={"no_repeat": 4})
    print(LLM().generate("def fibonacci(n):", params)[0].text)


if __name__ == "__main__":
    main()
