"""The rows of a reel in compiled code: `slotkit.reel` once more, for loops that can't call PyTorch.

The bits are the same; the engine suite holds them to it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numba.np.ufunc.parallel import _launch_threads

from slotkit.latent.weight import LatentWeight
from slotkit.philox_cpu import HALF, WORD, philox_one
from slotkit.reel import OPTIONS, SCORES, UniformInit, find_init

# Starting numba's threads sets OpenMP's thread count, which is torch's too: torch gets its own back.
_torch_threads = torch.get_num_threads()
_launch_threads()  # type: ignore[no-untyped-call]
torch.set_num_threads(_torch_threads)
numba.set_num_threads(min(_torch_threads, numba.get_num_threads()))

compiled = numba.njit(cache=True, nogil=True, error_model="numpy")
parallel = numba.njit(cache=True, nogil=True, error_model="numpy", parallel=True)
inlined = numba.njit(cache=True, nogil=True, error_model="numpy", inline="always")


class Rule(NamedTuple):
    """How the rows of a reel come about: `slotkit.reel` in numbers."""

    k: int
    stored: bool
    symmetric: bool
    owner_stride: int
    owner_count: int
    key_0: np.uint64
    key_1: np.uint64
    bound: np.float32
    score_scale: np.float32


@inlined
def symmetric_uniform(word: Any) -> Any:
    return np.float32(np.int64(word >> np.uint64(8)) * 2 + (1 - 2**24)) * np.float32(2.0**-24)


@inlined
def unit_uniform(word: Any) -> Any:
    return np.float32(np.int64(word >> np.uint64(9)) * 2 + 1) * np.float32(2.0**-24)


@compiled
def fill_rows(i: Any, rule: Any, table_w: Any, table_s: Any, w: Any, s: Any) -> None:
    """The K options and initial scores of connection i, stored or recomputed."""
    owner = (i // rule.owner_stride) % rule.owner_count
    if rule.stored:
        for j in range(rule.k):
            w[j] = table_w[owner, j]
            s[j] = table_s[i, j]
        return
    low, high = np.uint64(owner) & WORD, np.uint64(owner) >> HALF
    count = rule.k // 2 if rule.symmetric else rule.k
    for block in range((count + 3) // 4):
        words = philox_one(low, high, np.uint64(block), np.uint64(OPTIONS), rule.key_0, rule.key_1)
        for lane in range(min(4, count - 4 * block)):
            value = symmetric_uniform(words[lane]) * rule.bound
            j = 4 * block + lane
            if rule.symmetric:
                w[2 * j], w[2 * j + 1] = value, -value
            else:
                w[j] = value
    low, high = np.uint64(i) & WORD, np.uint64(i) >> HALF
    for block in range((rule.k + 3) // 4):
        words = philox_one(low, high, np.uint64(block), np.uint64(SCORES), rule.key_0, rule.key_1)
        for lane in range(min(4, rule.k - 4 * block)):
            s[4 * block + lane] = unit_uniform(words[lane]) * rule.bound * rule.score_scale


@inlined
def option_of(i: Any, j: Any, rule: Any, table_w: Any) -> Any:
    """Option j of connection i."""
    owner = (i // rule.owner_stride) % rule.owner_count
    if rule.stored:
        return table_w[owner, j]
    index = j // 2 if rule.symmetric else j
    low, high = np.uint64(owner) & WORD, np.uint64(owner) >> HALF
    words = philox_one(low, high, np.uint64(index // 4), np.uint64(OPTIONS), rule.key_0, rule.key_1)
    value = symmetric_uniform(lane_of(words, index % 4)) * rule.bound
    return -value if rule.symmetric and j % 2 else value


@inlined
def score_of(i: Any, j: Any, rule: Any, table_s: Any) -> Any:
    """Initial score j of connection i."""
    if rule.stored:
        return table_s[i, j]
    low, high = np.uint64(i) & WORD, np.uint64(i) >> HALF
    words = philox_one(low, high, np.uint64(j // 4), np.uint64(SCORES), rule.key_0, rule.key_1)
    return unit_uniform(lane_of(words, j % 4)) * rule.bound * rule.score_scale


@inlined
def lane_of(words: Any, lane: Any) -> Any:
    """words[lane] for a lane that is not a constant."""
    if lane < 2:
        return words[0] if lane == 0 else words[1]
    return words[2] if lane == 2 else words[3]


def rule_of(weight: LatentWeight) -> Rule:
    """The reel of a weight in numbers; bound and scale are not used where its tables are stored."""
    reel, init = weight.reel, find_init(weight.reel.init)
    bound = init.bound(reel.fans) if isinstance(init, UniformInit) else 0.0
    scale = init.score_scale(reel.fans) if isinstance(init, UniformInit) else 0.0
    key_0, key_1 = (np.uint64(word) for word in reel.key)
    stored = weight.tables is not None
    return Rule(
        reel.k, stored, reel.symmetric, *reel.owner_rule, key_0, key_1, np.float32(bound), np.float32(scale)
    )
