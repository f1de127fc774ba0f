"""The rows of a reel in compiled code: `slotkit.reel` once more, for loops that can't call PyTorch.

The bits are the same; the engine suite holds them to it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from slotkit.latent.cpu_plan import array_at, bare, inlined
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
    """The length of an array that `draw_rows` can write to: they write by eights."""
    return (k + 7) // 8 * 8


@inlined
def put_options(x: Any, block: Any, bound: Any, w: Any) -> None:
    """Four options, from the words of a block."""
    w[4 * block] = symmetric_uniform(x[0]) * bound
    w[4 * block + 1] = symmetric_uniform(x[1]) * bound
    w[4 * block + 2] = symmetric_uniform(x[2]) * bound
    w[4 * block + 3] = symmetric_uniform(x[3]) * bound


@inlined
def put_pairs(x: Any, block: Any, bound: Any, w: Any) -> None:
    """Eight options, four and their opposites, from the words of a block."""
    w[8 * block] = symmetric_uniform(x[0]) * bound
    w[8 * block + 1] = -(symmetric_uniform(x[0]) * bound)
    w[8 * block + 2] = symmetric_uniform(x[1]) * bound
    w[8 * block + 3] = -(symmetric_uniform(x[1]) * bound)
    w[8 * block + 4] = symmetric_uniform(x[2]) * bound
    w[8 * block + 5] = -(symmetric_uniform(x[2]) * bound)
    w[8 * block + 6] = symmetric_uniform(x[3]) * bound
    w[8 * block + 7] = -(symmetric_uniform(x[3]) * bound)


@inlined
def put_scores(x: Any, block: Any, bound: Any, scale: Any, s: Any) -> None:
    """Four initial scores, from the words of a block."""
    s[4 * block] = unit_uniform(x[0]) * bound * scale
    s[4 * block + 1] = unit_uniform(x[1]) * bound * scale
    s[4 * block + 2] = unit_uniform(x[2]) * bound * scale
    s[4 * block + 3] = unit_uniform(x[3]) * bound * scale


@bare
def draw_rows(owner: Any, i: Any, plan: Any, w: Any, s: Any) -> None:
    """The K options of an owner, and the K initial scores of connection i."""
    k, bound, scale, key_0, key_1 = plan.k, plan.bound, plan.score_scale, plan.key_0, plan.key_1
    owner_low, owner_high = np.uint64(owner) & WORD, np.uint64(owner) >> HALF
    low, high = np.uint64(i) & WORD, np.uint64(i) >> HALF
    options, scores = np.uint64(OPTIONS), np.uint64(SCORES)
    if plan.symmetric:
        for block in range((k // 2 + 3) // 4):
            x = philox_one(owner_low, owner_high, np.uint64(block), options, key_0, key_1)
            put_pairs(x, block, bound, w)
        for block in range((k + 3) // 4):
            y = philox_one(low, high, np.uint64(block), scores, key_0, key_1)
            put_scores(y, block, bound, scale, s)
    else:
        # Both in one loop: a processor has something to do while it waits for the other's products.
        for block in range((k + 3) // 4):
            x = philox_one(owner_low, owner_high, np.uint64(block), options, key_0, key_1)
            y = philox_one(low, high, np.uint64(block), scores, key_0, key_1)
            put_options(x, block, bound, w)
            put_scores(y, block, bound, scale, s)


@bare
def fill_rows(i: Any, plan: Any, w: Any, s: Any) -> None:
    """The K options and initial scores of connection i, stored or recomputed: w and s of `padded(k)`."""
    owner = owner_of(i, plan)
    if plan.stored:
        k = plan.k
        options = array_at(plan.options + 4 * k * owner, np.float32(0), k)
        scores = array_at(plan.scores + 4 * k * i, np.float32(0), k)
        for j in range(k):
            w[j] = options[j]
            s[j] = scores[j]
    else:
        draw_rows(owner, i, plan, w, s)


@inlined
def lane_of(words: Any, lane: Any) -> Any:
    """words[lane] for a lane that is not a constant."""
    low = words[0] if lane == 0 else words[1]
    high = words[2] if lane == 2 else words[3]
    return low if lane < 2 else high
