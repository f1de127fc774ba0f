"""Philox-4x32-10 (Salmon et al., SC 2011): random bits as a pure function of a key and a counter.

There is no generator state: the bits of one place are the same whatever was computed before them, on
every device, with any number of threads and in any order. Everything random in slotkit that has to
last (options, initial scores, draws of probabilistic sampling) comes from here; `reel.py` says which
counters mean what. Checked in the tests against the known-answer vectors of Random123.

32-bit words are held in int64 tensors: a 64-bit product may wrap, but wraps to the right bits.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

WORD = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def philox(counter: Words, key: tuple[int, int]) -> Words:
    """Four 32-bit words (int64 tensors holding 0 .. 2**32 - 1) for each counter.

    `counter` is four int64 tensors of one shape and device with values 0 .. 2**32 - 1, `key` two
    integers in the same range. On the CPU a compiled loop makes the same bits.
    """
    if counter[0].device.type == "cpu" and counter[0].dim() == 1:
        from slotkit.philox_cpu import philox_all

        arrays = [word.numpy() for word in counter]
        words = torch.from_numpy(philox_all(*arrays, np.uint64(key[0]), np.uint64(key[1])))  # type: ignore[call-arg]
        return words[0], words[1], words[2], words[3]
    return philox_tensors(counter, key)


def philox_tensors(counter: Words, key: tuple[int, int]) -> Words:
    """`philox` in tensor operations, on every device."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        left = c0 * MULTIPLIERS[0]
        right = c2 * MULTIPLIERS[1]
        # >> is arithmetic on int64, so the high half needs the mask as much as the low one.
        c0 = (right >> 32).bitwise_and_(WORD).bitwise_xor_(c1).bitwise_xor_(k0)
        c2 = (left >> 32).bitwise_and_(WORD).bitwise_xor_(c3).bitwise_xor_(k1)
        c1 = right.bitwise_and_(WORD)
        c3 = left.bitwise_and_(WORD)
        k0 = (k0 + WEYL[0]) & WORD
        k1 = (k1 + WEYL[1]) & WORD
    return c0, c1, c2, c3


def key_of(*parts: str | int) -> tuple[int, int]:
    """The 64-bit key of a tuple of names and integers: two 32-bit words.

    The first eight bytes (little endian) of the BLAKE2b-64 digest of the parts' text, each part
    preceded by its length, so that no two tuples of texts run together; an integer counts as its text.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        text = str(part).encode()
        digest.update(len(text).to_bytes(4, "little") + text)
    number = int.from_bytes(digest.digest(), "little")
    return number & WORD, number >> 32


def symmetric_uniform(bits: Tensor) -> Tensor:
    """32-bit words to float32 in (-1, 1), exactly: (2 n + 1 - 2**24) / 2**24 with n the top 24 bits.

    The numerator is an odd integer below 2**24 in size, so it is a float32, the division is by a
    power of two, no value is zero and the set of values is symmetric about zero.
    """
    return ((bits >> 8) * 2 + (1 - 2**24)).to(torch.float32).mul_(2.0**-24)


def unit_uniform(bits: Tensor) -> Tensor:
    """32-bit words to float32 in (0, 1), exactly: (2 n + 1) / 2**24 with n the top 23 bits."""
    return ((bits >> 9) * 2 + 1).to(torch.float32).mul_(2.0**-24)
