"""The sum of a tensor: what it is, in plain integers, and what changes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from brigade.backends.sums import SHIFTS, Keys, Place, plain_sum

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BITS = {"float32": (torch.int32, 32), "bfloat16": (torch.int16, 16)}


def whole(rows: int) -> Place:
    return Place(np.arange(rows), np.ones(rows, bool))


def numbers(*shape: int, kind: str = "float32", seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DTYPES[kind])


def value(tensor: Tensor, name: str = "a.weight", place: Place | None = None) -> int:
    return plain_sum(name, tensor, tensor.dtype, whole(tensor.shape[0]) if place is None else place).value


@pytest.mark.parametrize("kind", DTYPES)
def test_it_is_the_sum_of_bits_times_keys_modulo_two_to_the_64(kind: str) -> None:
    """In Python's integers, which know no overflow."""
    tensor, keys = numbers(5, 7, kind=kind), Keys("a.weight", kind)
    integer, bits = BITS[kind]
    codes = (tensor.view(integer).long() & ((1 << bits) - 1)).tolist()
    columns, rows = keys.columns(np.arange(7)).tolist(), keys.rows(np.arange(5)).tolist()
    expected = sum(codes[r][k] * columns[k] * rows[r] for r in range(5) for k in range(7)) % 2**64
    assert value(tensor) == expected


@pytest.mark.parametrize("kind", SHIFTS)
def test_a_columns_key_is_its_words_odd_key_moved_to_its_place_in_the_word(kind: str) -> None:
    keys, shifts = Keys("a", kind), SHIFTS[kind]
    words = keys.words(np.arange(50)).tolist()
    assert len(set(words)) == 50 and all(word % 2 for word in words) and len({word % 2**32 for word in words}) == 50
    expected = [words[k // len(shifts)] * 2 ** shifts[k % len(shifts)] % 2**64 for k in range(20)]
    assert keys.columns(np.arange(20)).tolist() == expected


def test_the_keys_never_change() -> None:
    """They are part of every fingerprint that was ever written down."""
    keys = Keys("layers.0.mlp.up.weight", "bfloat16")
    assert keys.rows(np.array([0, 1])).tolist() == [8690606548131358291, 1393271224816407659]
    assert keys.words(np.array([0, 1])).tolist() == [1632503954545369535, 5121057659866417059]


def test_any_bit_of_any_number_changes_it() -> None:
    for kind, (integer, bits) in BITS.items():
        tensor, found = numbers(3, 5, kind=kind), set()
        for at in range(15):
            for bit in range(bits):
                one = -(1 << (bits - 1)) if bit == bits - 1 else 1 << bit
                changed = tensor.clone()
                changed.view(integer).view(-1)[at] ^= one
                found.add(value(changed))
        assert len(found) == 15 * bits and value(tensor) not in found


def test_so_does_an_exchange_of_numbers_rows_or_columns_another_name_and_another_kind() -> None:
    tensor = numbers(6, 8)
    found = [value(tensor), value(tensor, "b.weight"), value(tensor.bfloat16())]
    for a, b in ((0, 1), (2, 5)):
        rows, columns, one = tensor.clone(), tensor.clone(), tensor.clone()
        rows[[a, b]], columns[:, [a, b]] = tensor[[b, a]], tensor[:, [b, a]]
        one[0, [a, b]] = tensor[0, [b, a]]
        found += [value(rows), value(columns), value(one)]
    tensor[2, 3], tensor[3, 2] = -1.0, 1.0
    found.append(value(tensor))
    tensor[2, 3], tensor[3, 2] = 1.0, -1.0  # two highest bits
    assert len({*found, value(tensor)}) == len(found) + 1


@pytest.mark.parametrize("kind", DTYPES)
def test_parts_add_up_however_they_are_cut(kind: str) -> None:
    tensor = numbers(9, 11, kind=kind)
    rows = [value(tensor[part], place=Place(np.array(part), np.ones(len(part), bool))) for part in ([8, 0, 3], [1, 2, 4, 5, 6, 7])]
    columns = [value(tensor[:, a:b], place=Place(np.arange(9), np.ones(9, bool), a)) for a, b in ((0, 3), (3, 10), (10, 11))]
    twice = value(tensor, place=Place(np.arange(9), np.arange(9) < 4)) + value(
        tensor[4:], place=Place(np.arange(4, 9), np.ones(5, bool))
    )
    assert sum(rows) % 2**64 == sum(columns) % 2**64 == twice % 2**64 == value(tensor)


def test_numbers_held_in_a_wider_type_are_those_that_they_were_rounded_to() -> None:
    tensor = numbers(4, 6).bfloat16()
    assert plain_sum("a", tensor.float(), torch.bfloat16, whole(4)) == plain_sum("a", tensor, torch.bfloat16, whole(4))


def test_a_large_tensor_is_counted_in_pieces(monkeypatch) -> None:
    from brigade.backends import sums

    tensor = numbers(40, 16)
    expected = value(tensor)
    monkeypatch.setattr(sums, "CHUNK", 48)
    assert value(tensor) == expected
