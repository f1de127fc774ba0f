"""Philox against Random123, against Python integers, and its conversions against exact fractions."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import key_words, philox_block

from slotkit.philox import key_of, philox, symmetric_uniform, unit_uniform

WORDS = st.integers(0, 2**32 - 1)
ENDS = [0, 1, 2**8 - 1, 2**8, 2**9 - 1, 2**9, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1]

# kat_vectors of Random123, philox4x32 with 10 rounds: counter, key, result.
RANDOM123 = {
    "zeros": (
        (0x00000000, 0x00000000, 0x00000000, 0x00000000),
        (0x00000000, 0x00000000),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    "ones": (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    "digits-of-pi": (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
}


def blocks(
    counters: list[tuple[int, ...]], key: tuple[int, int], device: torch.device
) -> list[tuple[int, ...]]:
    """slotkit's Philox for a list of counters."""
    c0, c1, c2, c3 = (torch.tensor(column, device=device) for column in zip(*counters, strict=True))
    words = philox((c0, c1, c2, c3), key)
    return list(zip(*(word.tolist() for word in words), strict=True))


@pytest.mark.parametrize("vector", RANDOM123.values(), ids=RANDOM123)
def test_known_answers_of_random123(
    vector: tuple[tuple[int, ...], tuple[int, int], tuple[int, ...]], device: torch.device
) -> None:
    counter, key, answer = vector
    assert blocks([counter], key, device) == [answer]
    assert philox_block(counter, key) == answer, "the oracle itself is wrong"


@given(st.lists(st.tuples(WORDS, WORDS, WORDS, WORDS), min_size=1, max_size=5), st.tuples(WORDS, WORDS))
def test_equals_philox_in_python_integers(
    device: torch.device, counters: list[tuple[int, ...]], key: tuple[int, int]
) -> None:
    assert blocks(counters, key, device) == [philox_block(counter, key) for counter in counters]


def test_leaves_its_arguments_alone(device: torch.device) -> None:
    counter = tuple(torch.arange(5, device=device) + shift for shift in range(4))
    copies = [words.clone() for words in counter]
    philox(counter, (1, 2))  # type: ignore[arg-type]
    assert all(torch.equal(now, before) for now, before in zip(counter, copies, strict=True))


GOLDEN_KEYS = {
    (): (0x57A0A6E4, 0xB4B27974),
    ("slotkit reel spec", 1, 0, "weight"): (0x30662D56, 0x9BFB7725),
    ("slotkit reel spec", 1, 0, "fc1.weight"): (0xAFD738A7, 0xDFBD483A),
    ("slotkit reel spec", 1, 2**63 - 1, "fc1.weight"): (0xD74EB5DF, 0x338DD984),
    ("Gewicht", "größe"): (0xBA8A408F, 0x36E0EFDD),
}


@pytest.mark.parametrize(("parts", "words"), GOLDEN_KEYS.items(), ids=map(repr, GOLDEN_KEYS))
def test_golden_keys(parts: tuple[str | int, ...], words: tuple[int, int]) -> None:
    assert key_of(*parts) == words
    assert key_words(*parts) == words, "the oracle itself is wrong"


@given(st.lists(st.text(alphabet="a1\x00\x01", max_size=3), max_size=4), st.data())
def test_names_do_not_run_together(parts: list[str], data: st.DataObject) -> None:
    """Cutting the same text elsewhere gives another key: ("ab", "c") is not ("a", "bc")."""
    text = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=3)))
    other = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert (key_of(*parts) == key_of(*other)) == (parts == other)


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1), st.text(max_size=4), st.text(max_size=4))
def test_every_seed_and_name_has_its_key(a: int, b: int, name: str, other: str) -> None:
    if (a, name) != (b, other):
        assert key_of(a, name) != key_of(b, other)


def exactly(values: torch.Tensor) -> list[Fraction]:
    assert values.dtype == torch.float32
    return [Fraction(value) for value in values.tolist()]


@given(st.lists(WORDS, min_size=1, max_size=20))
def test_symmetric_uniform_is_exact(device: torch.device, bits: list[int]) -> None:
    bits = bits + ENDS
    values = exactly(symmetric_uniform(torch.tensor(bits, device=device)))
    assert values == [Fraction(2 * (word >> 8) + 1 - 2**24, 2**24) for word in bits]
    assert all(-1 < value < 1 and value != 0 for value in values)


@given(st.lists(WORDS, min_size=1, max_size=20))
def test_unit_uniform_is_exact(device: torch.device, bits: list[int]) -> None:
    bits = bits + ENDS
    values = exactly(unit_uniform(torch.tensor(bits, device=device)))
    assert values == [Fraction(2 * (word >> 9) + 1, 2**24) for word in bits]
    assert all(0 < value < 1 for value in values)


@given(WORDS)
def test_symmetric_uniform_is_odd(device: torch.device, word: int) -> None:
    """Turning every bit over changes the sign and nothing else."""
    value, mirror = symmetric_uniform(torch.tensor([word, word ^ 0xFFFFFFFF], device=device)).tolist()
    assert value == -mirror


def test_extreme_words(device: torch.device) -> None:
    ends = torch.tensor([0, 2**32 - 1], device=device)
    assert symmetric_uniform(ends).tolist() == [-(1 - 2**-24), 1 - 2**-24]
    assert unit_uniform(ends).tolist() == [2**-24, 1 - 2**-24]


def test_distinct_top_bits_give_distinct_values(device: torch.device) -> None:
    """No two of the 2**24 (2**23) values coincide where float32 is coarsest, next to 1."""
    top = torch.arange(2**32 - 2**12, 2**32, device=device)
    assert symmetric_uniform(top).unique().numel() == 2**12 // 2**8  # type: ignore[no-untyped-call]
    assert unit_uniform(top).unique().numel() == 2**12 // 2**9  # type: ignore[no-untyped-call]
