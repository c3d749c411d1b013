"""Another sampling rule in the controller: Gumbel-max instead of the running sum.

A rule gets the weights of the tokens that are still possible and returns ids. To keep the promise, it may use nothing but the
weights, the row's seed and its position.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from brigade.engine.sampling.rng import derive_seed, uniform
from brigade.engine.sampling.row import SampleRow
from brigade.engine.sampling.sampler import Sampler


class GumbelMax:
    """argmax of log weight + Gumbel noise; only tokens that are possible draw a number."""

    def choose(self, weights_RV: Tensor, rows: Sequence[SampleRow]) -> list[int]:
        return [self._choose(weights_RV[i], row) for i, row in enumerate(rows)]

    @staticmethod
    def _choose(weights_V: Tensor, row: SampleRow) -> int:
        possible = torch.nonzero(weights_V > 0).squeeze(1)
        draws = [uniform(derive_seed(row.seed, int(i) + 1), row.position) for i in possible]
        noise = -torch.log(-torch.log(torch.tensor(draws).clamp(1e-9, 1 - 1e-7)))
        return int(possible[(torch.log(weights_V[possible]) + noise).argmax()])


def main() -> None:
    from brigade import LLM, SamplingParams

    llm = LLM(sampler=Sampler(GumbelMax()))
    params = SamplingParams(temperature=0.8, top_k=20, seed=1, max_tokens=32)
    print(llm.generate("def fibonacci(n):", params)[0].text)


if __name__ == "__main__":
    main()
