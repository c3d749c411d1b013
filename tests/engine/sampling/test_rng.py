"""The generator is a pure function, the same for one number and for many, and its numbers are spread evenly."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from brigade.engine.sampling.rng import derive_seed, mix, uniform, uniform_bits, uniform_bits_batch

SEEDS, POSITIONS = st.integers(0, 2**64 - 1), st.integers(0, 2**40)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(SEEDS, POSITIONS), min_size=1, max_size=9))
def test_a_batch_holds_the_numbers_drawn_one_by_one(pairs) -> None:
    found = uniform_bits_batch([seed for seed, _ in pairs], [position for _, position in pairs])
    assert found.tolist() == [uniform_bits(seed, position) for seed, position in pairs]
    assert [bits * 2.0**-53 for bits in found.tolist()] == [uniform(seed, position) for seed, position in pairs]


def test_mixing_is_the_published_splitmix64() -> None:
    state, stride, found = 1234567, 0x9E3779B97F4A7C15, []
    for _ in range(3):
        found.append(mix(state))
        state += stride
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_numbers_are_uniform_along_positions_and_along_seeds() -> None:
    count, cells = 20000, 100
    for pairs in ([(5, p) for p in range(count)], [(s, 5) for s in range(count)], [(derive_seed(1, i), 9) for i in range(count)]):
        tally = [0] * cells
        for seed, position in pairs:
            tally[int(uniform(seed, position) * cells)] += 1
        expected = count / cells
        assert sum((t - expected) ** 2 / expected for t in tally) < 149.0  # 99 degrees of freedom, p = 0.001


def test_neighbours_are_not_alike() -> None:
    numbers = [uniform(0, p) - 0.5 for p in range(20000)]
    variance = sum(x * x for x in numbers) / len(numbers)
    assert abs(variance - 1 / 12) < 0.002
    for distance in (1, 2, 64):
        together = sum(a * b for a, b in zip(numbers, numbers[distance:], strict=False)) / len(numbers)
        assert abs(together / variance) < 0.03
