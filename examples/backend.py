"""Another backend: the reference arithmetic with every product counted.

A backend of your own fills the contract in `brigade/backends/base.py`, or starts from one that does, as here.
"""

from __future__ import annotations

from torch import Tensor

from brigade import register_backend
from brigade.backends.reference import ReferenceBackend


class CountingBackend(ReferenceBackend):
    name = "counting"

    def __init__(self, **settings) -> None:
        super().__init__(**settings)
        self.operations = 0  # multiplications and additions

    @property
    def numerics_id(self) -> str:
        return super().numerics_id  # the same bits, so the same name

    def linear(self, x_TK: Tensor, weight_NK: Tensor, bias_N: Tensor | None) -> Tensor:
        self.operations += 2 * x_TK.shape[0] * weight_NK.numel()
        return super().linear(x_TK, weight_NK, bias_N)

    def tree_linear(self, x_TK: Tensor, weight_NK: Tensor, bias_N: Tensor | None, share: int = 1) -> Tensor:
        self.operations += 2 * x_TK.shape[0] * weight_NK.numel()
        return super().tree_linear(x_TK, weight_NK, bias_N, share)


register_backend("counting", CountingBackend)


def main() -> None:
    from brigade import LLM, SamplingParams

    llm = LLM(backend="counting")
    llm.backend.operations = 0  # loading has tried the products of this model's shapes
    llm.generate("def fibonacci(n):", SamplingParams(temperature=0.0, max_tokens=16))
    print(f"{llm.backend.operations / 1e9:.2f} billion operations in matrix products")


if __name__ == "__main__":
    main()
