"""Philox and its uniform numbers compiled for the CPU: the bits of `philox.py`, ten times as fast."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

MULTIPLIER_0, MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL_0, WEYL_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
WORD, HALF, LOW = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(8)
ROUNDS = 10


# Inlined before LLVM sees the loops around it: only then do they use vector instructions, five times as fast.
@numba.njit(cache=True, nogil=True, inline="always")
def philox_one(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    """Four words for one counter and key, all uint64 holding 32 bits."""
    for _ in range(ROUNDS):
        left = c0 * MULTIPLIER_0
        right = c2 * MULTIPLIER_1
        c0 = (right >> HALF) ^ c1 ^ k0
        c2 = (left >> HALF) ^ c3 ^ k1
        c1 = right & WORD
        c3 = left & WORD
        k0 = (k0 + WEYL_0) & WORD
        k1 = (k1 + WEYL_1) & WORD
    return c0, c1, c2, c3


@numba.njit(cache=True, nogil=True)
def philox_all(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    """int64 (4, n) for counters int64 (n,)."""
    out = np.empty((4, len(c0)), np.int64)
    for i in range(len(c0)):
        words = philox_one(np.uint64(c0[i]), np.uint64(c1[i]), np.uint64(c2[i]), np.uint64(c3[i]), k0, k1)
        out[0, i], out[1, i], out[2, i], out[3, i] = words
    return out


@numba.njit(cache=True, nogil=True)
def uniform_rows(
    owners: Any, count: int, third: int, stream: int, k0: Any, k1: Any, symmetric: bool, out: Any
) -> None:
    """`count` uniform numbers for each owner, int64 (n,), into out, float32 (n, count).

    Number j is that of word j % 4 of block (owner, third + j // 4, stream): `symmetric_uniform` or
    `unit_uniform` of `philox.py`. The words of an owner are kept apart first: both loops are vectorized then.
    """
    blocks = (count + 3) // 4
    words = np.empty((4, blocks), np.int32)  # the upper 24 bits
    for i in range(len(owners)):
        owner = np.uint64(owners[i])
        for b in range(blocks):
            block, use = np.uint64(third + b), np.uint64(stream)
            w0, w1, w2, w3 = philox_one(owner & WORD, owner >> HALF, block, use, k0, k1)
            words[0, b], words[1, b] = np.int32(w0 >> LOW), np.int32(w1 >> LOW)
            words[2, b], words[3, b] = np.int32(w2 >> LOW), np.int32(w3 >> LOW)
        if symmetric:
            for j in range(count):
                odd = words[j & 3, j >> 2] * np.int32(2) + np.int32(1 - 2**24)
                out[i, j] = np.float32(odd) * np.float32(2.0**-24)
        else:
            for j in range(count):
                odd = (words[j & 3, j >> 2] >> 1) * np.int32(2) + np.int32(1)
                out[i, j] = np.float32(odd) * np.float32(2.0**-24)
