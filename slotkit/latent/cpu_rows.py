"""The rows of a reel in compiled code: `slotkit.reel` once more, for loops that can't call PyTorch.

The bits are the same; the engine suite holds them to it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray  # type: ignore[attr-defined]

from slotkit.latent.cpu_plan import compiled, inlined, pointer
from slotkit.philox_cpu import HALF, WORD, philox_one
from slotkit.reel import OPTIONS, SCORES


@inlined
def symmetric_uniform(word: Any) -> Any:
    return np.float32(np.int32(word >> np.uint64(8)) * np.int32(2) + np.int32(1 - 2**24)) * np.float32(
        2.0**-24
    )


@inlined
def unit_uniform(word: Any) -> Any:
    return np.float32(np.int32(word >> np.uint64(9)) * np.int32(2) + np.int32(1)) * np.float32(2.0**-24)


@inlined
def owner_of(i: Any, plan: Any) -> Any:
    """Whose options connection i has."""
    return (i // plan.owner_stride) % plan.owner_count if plan.shared else i


@inlined
def padded(k: Any) -> Any:
    """The length of an array that `fill_options` and `fill_scores` can write to: they write by eights."""
    return (k + 7) // 8 * 8


@compiled
def fill_options(owner: Any, plan: Any, w: Any) -> None:
    """The K options of an owner."""
    k, bound, key_0, key_1 = plan.k, plan.bound, plan.key_0, plan.key_1
    low, high = np.uint64(owner) & WORD, np.uint64(owner) >> HALF
    if plan.symmetric:
        for block in range((k // 2 + 3) // 4):
            x = philox_one(low, high, np.uint64(block), np.uint64(OPTIONS), key_0, key_1)
            w[8 * block] = symmetric_uniform(x[0]) * bound
            w[8 * block + 1] = -(symmetric_uniform(x[0]) * bound)
            w[8 * block + 2] = symmetric_uniform(x[1]) * bound
            w[8 * block + 3] = -(symmetric_uniform(x[1]) * bound)
            w[8 * block + 4] = symmetric_uniform(x[2]) * bound
            w[8 * block + 5] = -(symmetric_uniform(x[2]) * bound)
            w[8 * block + 6] = symmetric_uniform(x[3]) * bound
            w[8 * block + 7] = -(symmetric_uniform(x[3]) * bound)
    else:
        for block in range((k + 3) // 4):
            x = philox_one(low, high, np.uint64(block), np.uint64(OPTIONS), key_0, key_1)
            w[4 * block] = symmetric_uniform(x[0]) * bound
            w[4 * block + 1] = symmetric_uniform(x[1]) * bound
            w[4 * block + 2] = symmetric_uniform(x[2]) * bound
            w[4 * block + 3] = symmetric_uniform(x[3]) * bound


@compiled
def fill_scores(i: Any, plan: Any, s: Any) -> None:
    """The K initial scores of connection i."""
    k, bound, scale, key_0, key_1 = plan.k, plan.bound, plan.score_scale, plan.key_0, plan.key_1
    low, high = np.uint64(i) & WORD, np.uint64(i) >> HALF
    for block in range((k + 3) // 4):
        x = philox_one(low, high, np.uint64(block), np.uint64(SCORES), key_0, key_1)
        s[4 * block] = unit_uniform(x[0]) * bound * scale
        s[4 * block + 1] = unit_uniform(x[1]) * bound * scale
        s[4 * block + 2] = unit_uniform(x[2]) * bound * scale
        s[4 * block + 3] = unit_uniform(x[3]) * bound * scale


@compiled
def fill_rows(i: Any, plan: Any, w: Any, s: Any) -> None:
    """The K options and initial scores of connection i, stored or recomputed: w and s of `padded(k)`."""
    owner = owner_of(i, plan)
    if plan.stored:
        k = plan.k
        options = carray(pointer(plan.options), (plan.owner_count, k), np.float32)
        scores = carray(pointer(plan.scores), (plan.count, k), np.float32)
        for j in range(k):
            w[j] = options[owner, j]
            s[j] = scores[i, j]
    else:
        fill_options(owner, plan, w)
        fill_scores(i, plan, s)


@inlined
def lane_of(words: Any, lane: Any) -> Any:
    """words[lane] for a lane that is not a constant."""
    low = words[0] if lane == 0 else words[1]
    high = words[2] if lane == 2 else words[3]
    return low if lane < 2 else high
