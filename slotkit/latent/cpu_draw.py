"""Probabilistic sampling in compiled code: rejection, on vectors, and the inverse CDF where it must be.

Rejection proposes an option uniformly and accepts it with probability exp(score - ceiling), where
`ceiling` is at least every score of the connection. Exact, and a few tries whatever K is while scores
are flat.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from slotkit.latent.cpu_choose import highest_score, room_words, row_of, rows_in
from slotkit.latent.cpu_plan import (
    BLOCK,
    SHARDS,
    add_up,
    array_at,
    compiled,
    first_block,
    inlined,
    parallel,
    place,
    tensor_of,
)
from slotkit.latent.cpu_rows import fill_rows, lane_of, owner_of, symmetric_uniform, unit_uniform
from slotkit.philox_cpu import HALF, WORD, philox_one
from slotkit.reel import OPTIONS, SCORES

# Tries of rejection sampling before the exact inverse CDF, and the spread of scores (in nats) up to
# which it is tried at all: at FLAT a try is accepted with probability 1 / 8 or more on average.
ATTEMPTS = 8
FLAT = 4.0

# Draws by rejection have streams of their own; the counter's second word holds the number of the try.
REJECTION = 16
LAST_TRY = np.uint64(0xFFFF << 16)


# exp(x) = 2**n * exp(r) with n whole and |r| <= log(2) / 2: log(2) in two parts, the first of which times
# n is exact, and the Taylor polynomial of degree 13, whose rest is below 1e-17.
LOG2_HIGH, LOG2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
T2, T3, T4, T5, T6, T7, T8, T9, T10, T11, T12, T13 = (1.0 / math.factorial(n) for n in range(2, 14))
UNDERFLOW = -700.0


@compiled
def exponentials(x: Any, out: Any, bits: Any, k: Any) -> None:
    """out = exp(x) of k numbers <= 0, float64, to the last bit or two: math.exp won't run on vectors.

    Below exp(-700) it is exp(-700). `bits` are those of out, as int64.
    """
    for j in range(k):
        value = max(x[j], UNDERFLOW)
        n = np.floor(value * 1.4426950408889634 + 0.5)
        r = (value - n * LOG2_HIGH) - n * LOG2_LOW
        upper = T8 + r * (T9 + r * (T10 + r * (T11 + r * (T12 + r * T13))))
        x[j] = 1.0 + r * (1.0 + r * (T2 + r * (T3 + r * (T4 + r * (T5 + r * (T6 + r * (T7 + r * upper)))))))
        bits[j] = (np.int64(n) + 1023) << 52
    for j in range(k):
        out[j] *= x[j]


@compiled
def draw_by_inversion(i: Any, a: Any, c: Any, stream: Any, number: Any, plan: Any, room: Any) -> Any:
    """`slotkit.selection.sample` for one connection: exact, K exponentials. Returns the option."""
    k, second = plan.k, room + 8 * row_of(plan.k)
    w, s = rows_in(room, k)
    scores, shares, bits = array_at(room, 0.0, k), array_at(second, 0.0, k), array_at(second, 0, k)
    low, high = np.uint64(i) & WORD, np.uint64(i) >> HALF
    words = philox_one(low, high | LAST_TRY, number, stream, plan.key_0, plan.key_1)
    fill_rows(i, plan, w, s)
    highest = highest_score(a, c, w, s, k, room)
    for j in range(k):
        scores[j] -= highest
    exponentials(scores, shares, bits, k)
    total = 0.0
    for j in range(k):
        total += shares[j]
    rest = np.float64(unit_uniform(words[0])) * total
    for j in range(k):
        rest -= shares[j]
        if rest <= 0:
            return w[j]
    # Rounding left a rest behind the last option: the one with the highest score has the largest share.
    return w[np.argmax(shares[:k])]


@compiled
def propose(
    waiting: Any, attempt: Any, stream: Any, number: Any, plan: Any, proposed: Any, chance: Any
) -> None:
    """For every waiting connection an option's index and the number it has to beat."""
    k, key_0, key_1 = np.uint64(plan.k), plan.key_0, plan.key_1
    pair = np.uint64(attempt // 2) << np.uint64(16)
    second = attempt % 2 == 1
    for n in range(len(waiting)):
        low, high = np.uint64(waiting[n]) & WORD, np.uint64(waiting[n]) >> HALF
        x = philox_one(low, high | pair, number, stream, key_0, key_1)
        proposed[n] = np.int64(((x[2] if second else x[0]) * k) >> HALF)
        chance[n] = unit_uniform(x[3] if second else x[1])


@compiled
def look_up(waiting: Any, proposed: Any, plan: Any, option: Any, score: Any) -> None:
    """The proposed options and their initial scores."""
    if plan.stored:
        options = array_at(plan.options, np.float32(0), plan.owner_count * plan.k)
        scores = array_at(plan.scores, np.float32(0), plan.count * plan.k)
        for n in range(len(waiting)):
            option[n] = options[owner_of(waiting[n], plan) * plan.k + proposed[n]]
            score[n] = scores[waiting[n] * plan.k + proposed[n]]
        return
    key_0, key_1, bound, scale = plan.key_0, plan.key_1, plan.bound, plan.score_scale
    halved = 1 if plan.symmetric else 0
    shared, stride, owners = plan.shared, plan.owner_stride, plan.owner_count
    if shared:
        for n in range(len(waiting)):
            owner = (waiting[n] // stride) % owners
            option[n] = one_option(owner, proposed[n], halved, key_0, key_1, bound)
    else:
        for n in range(len(waiting)):
            option[n] = one_option(waiting[n], proposed[n], halved, key_0, key_1, bound)
    for n in range(len(waiting)):
        j = proposed[n]
        low, high = np.uint64(waiting[n]) & WORD, np.uint64(waiting[n]) >> HALF
        x = philox_one(low, high, np.uint64(j >> 2), np.uint64(SCORES), key_0, key_1)
        score[n] = unit_uniform(lane_of(x, j & 3)) * bound * scale


@inlined
def one_option(owner: Any, j: Any, halved: Any, key_0: Any, key_1: Any, bound: Any) -> Any:
    low, high = np.uint64(owner) & WORD, np.uint64(owner) >> HALF
    index = j >> halved
    x = philox_one(low, high, np.uint64(index >> 2), np.uint64(OPTIONS), key_0, key_1)
    value = symmetric_uniform(lane_of(x, index & 3)) * bound
    return -value if (j & halved) == 1 else value


@compiled
def draw_block(start: Any, position: Any, c: Any, stream: Any, number: Any, plan: Any, weight: Any) -> Any:
    """Draw the options of the connections from `start` on. Returns how many changed."""
    size, k = len(position), plan.k
    largest_option, largest_score = plan.largest_option, abs(c) * plan.largest_score
    waiting, proposed = np.empty(size, np.int64), np.empty(size, np.int64)
    chance, option, score = np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.float32)
    below = np.empty(size, np.float64)
    memory = np.empty(room_words(k), np.int64)
    room = memory.ctypes.data
    changed, left = 0, 0
    for i in range(size):
        a = np.float64(position[i])
        if largest_score + abs(a) * largest_option < FLAT:
            waiting[left] = start + i
            left += 1
        else:
            drawn = draw_by_inversion(start + i, a, c, stream, number, plan, room)
            changed += put(start + i, drawn, plan, weight)
    for attempt in range(ATTEMPTS):
        if left == 0:
            break
        propose(waiting[:left], attempt, stream, number, plan, proposed, chance)
        look_up(waiting[:left], proposed, plan, option, score)
        for n in range(left):
            a = np.float64(position[waiting[n] - start])
            ceiling = largest_score + abs(a) * largest_option
            below[n] = c * np.float64(score[n]) + a * np.float64(option[n]) - ceiling
        still = 0
        for n in range(left):
            if accepts(np.float64(chance[n]), below[n]):
                changed += put(waiting[n], option[n], plan, weight)
            else:
                waiting[still] = waiting[n]
                still += 1
        left = still
    for n in range(left):
        a = np.float64(position[waiting[n] - start])
        drawn = draw_by_inversion(waiting[n], a, c, stream, number, plan, room)
        changed += put(waiting[n], drawn, plan, weight)
    memory[0] = 0  # until here it was in use
    return changed


@inlined
def accepts(chance: Any, x: Any) -> Any:
    """chance < exp(x) for x <= 0, mostly without the exponential: its Taylor polynomials of odd degree
    are below it, those of even degree above.
    """
    cubic = 1 + x * (1 + x * (0.5 + x / 6))
    if chance < cubic:
        return True
    if chance >= cubic + x * x * x * x / 24:
        return False
    return chance < math.exp(x)


@inlined
def put(i: Any, value: Any, plan: Any, weight: Any) -> Any:
    """Write the weight of connection i. Returns 1 if it was another."""
    at = i if plan.row_major else place(i, plan)
    changed = 1 if weight[at] != value else 0
    weight[at] = value
    return changed


@compiled
def draw_shard(shard: Any, call: Any, plan: Any, moves: Any, stream: Any, number: Any, zero: Any) -> None:
    """A sample of the connections of a shard's blocks."""
    first, changed = array_at(call.first, 0, call.tensors + 1), array_at(call.counts, 0, call.blocks)
    for block in range(first_block(shard, call), first_block(shard + 1, call)):
        t = tensor_of(block, first)
        row, start = plan[t], (block - first[t]) * BLOCK
        end = min(start + BLOCK, row.count)
        position = array_at(row.latent, zero, row.count)[start:end]
        weight = array_at(row.weight, zero, 1 << 62)
        changed[block] = draw_block(start, position, moves[t].c, stream, number, row, weight)


@parallel
def draw_blocks(call: Any, plan: Any, moves: Any, stream: Any, number: Any, zero: Any) -> None:
    """A sample of every connection of the CALL (1,); how many changed is counted there."""
    for shard in numba.prange(SHARDS):
        draw_shard(shard, call[0], plan, moves, stream, number, zero)
    add_up(call[0])
