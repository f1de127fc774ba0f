"""Probabilistic sampling on the CPU: rejection with vector instructions, else the inverse CDF.

Rejection proposes an option uniformly and accepts it with probability exp(score - ceiling), where
`ceiling` is at least every score of the connection. Exact, and a few tries whatever K is while scores
are flat.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from slotkit.latent.engines.cpu_choose import (
    BLOCK,
    Floats,
    Integers,
    Singles,
    Tables,
    Words,
    compiled,
    fill,
    inlined,
    parallel,
    symmetric_uniform,
    unit_uniform,
    words_of,
)
from slotkit.philox_cpu import HALF, WORD, philox_one
from slotkit.reel import OPTIONS, SCORES, ReelSpec

# Tries of rejection sampling before the exact inverse CDF, and the spread of scores (in nats) up to
# which it is tried at all: at FLAT a try is accepted with probability 1 / 8 or more on average.
ATTEMPTS = 8
FLAT = 4.0

# Draws by rejection have streams of their own; the counter's second word holds the number of the try.
REJECTION = 16
LAST_TRY = np.uint64(0xFFFF << 16)

# exp(x) = 2**n * exp(r) with n whole and |r| <= log(2) / 2. log(2) is the sum of two numbers, and n times the
# first is exact. exp(r) is the Taylor polynomial of degree 13, with an error below 1e-17.
LOG2_HIGH, LOG2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
T2, T3, T4, T5, T6, T7, T8, T9, T10, T11, T12, T13 = (1.0 / math.factorial(n) for n in range(2, 14))
UNDERFLOW = -700.0


@compiled
def exponentials(x: Floats, out: Floats) -> None:
    """out = exp(x) of numbers <= 0, float64, to the last bit or two. math.exp is no vector instruction.

    Below exp(-700) it is exp(-700). x is overwritten.
    """
    bits = out.view(np.int64)
    for j in range(len(x)):
        value = max(x[j], UNDERFLOW)
        n = np.floor(value * 1.4426950408889634 + 0.5)
        r = (value - n * LOG2_HIGH) - n * LOG2_LOW
        upper = T8 + r * (T9 + r * (T10 + r * (T11 + r * (T12 + r * T13))))
        x[j] = 1.0 + r * (1.0 + r * (T2 + r * (T3 + r * (T4 + r * (T5 + r * (T6 + r * (T7 + r * upper)))))))
        bits[j] = (np.int64(n) + 1023) << 52
    for j in range(len(x)):
        out[j] *= x[j]


@compiled
def sample_by_inversion(
    i: int, a: float, c: float, stream: np.uint64, number: np.uint64, spec: ReelSpec, tables: Tables
) -> np.float32:
    """`slotkit.selection.sample` for one connection: exact, K exponentials. Returns the option's value."""
    k = spec.k
    w, s = np.empty(k + 7, np.float32), np.empty(k + 7, np.float32)
    scores, shares = np.empty(k, np.float64), np.empty(k, np.float64)
    low, high = np.uint64(i) & WORD, np.uint64(i) >> HALF
    words = philox_one(low, high | LAST_TRY, number, stream, spec.key_0, spec.key_1)
    fill(i, spec, tables, w, s)
    highest = -math.inf
    for j in range(k):
        scores[j] = c * np.float64(s[j]) + a * np.float64(w[j]) + 0.0
        highest = max(highest, scores[j])
    for j in range(k):
        scores[j] -= highest
    exponentials(scores, shares)
    total = 0.0
    for j in range(k):
        total += shares[j]
    rest = np.float64(unit_uniform(words[0])) * total
    for j in range(k):
        rest -= shares[j]
        if rest <= 0:
            return np.float32(w[j])
    # Rounding can leave a rest after the last option. Then the option with the largest share is taken.
    return np.float32(w[np.argmax(shares)])


@compiled
def propose(
    waiting: Integers,
    attempt: int,
    stream: np.uint64,
    number: np.uint64,
    spec: ReelSpec,
    proposed: Integers,
    chance: Singles,
) -> None:
    """An option for every waiting connection, and the uniform number, `chance`, that decides about it."""
    k, key_0, key_1 = np.uint64(spec.k), spec.key_0, spec.key_1
    pair = np.uint64(attempt // 2) << np.uint64(16)
    second = attempt % 2 == 1
    for n in range(len(waiting)):
        low, high = np.uint64(waiting[n]) & WORD, np.uint64(waiting[n]) >> HALF
        x = philox_one(low, high | pair, number, stream, key_0, key_1)
        proposed[n] = np.int64(((x[2] if second else x[0]) * k) >> HALF)
        chance[n] = unit_uniform(x[3] if second else x[1])


@inlined
def lane_of(words: Words, lane: int) -> np.uint64:
    """words[lane] for a lane that is not a constant."""
    low = words[0] if lane == 0 else words[1]
    high = words[2] if lane == 2 else words[3]
    return low if lane < 2 else high


@compiled
def look_up(
    waiting: Integers, proposed: Integers, spec: ReelSpec, tables: Tables, option: Singles, score: Singles
) -> None:
    """The proposed options and their initial scores."""
    if len(tables[1]):
        for n in range(len(waiting)):
            option[n] = tables[0][(waiting[n] // spec.stride) % spec.owners, proposed[n]]
            score[n] = tables[1][waiting[n], proposed[n]]
        return
    bound, scale, halved = spec.bound, spec.score_scale, 1 if spec.symmetric else 0
    for n in range(len(waiting)):
        # The remainder of a division is slow: most reels are not shared, and need none.
        owner = (
            waiting[n]
            if spec.stride == 1 and waiting[n] < spec.owners
            else (waiting[n] // spec.stride) % spec.owners
        )
        index = proposed[n] >> halved
        value = symmetric_uniform(lane_of(words_of(owner, index >> 2, OPTIONS, spec), index & 3)) * bound
        option[n] = -value if (proposed[n] & halved) == 1 else value
    for n in range(len(waiting)):
        words = words_of(waiting[n], proposed[n] >> 2, SCORES, spec)
        score[n] = unit_uniform(lane_of(words, proposed[n] & 3)) * bound * scale


@inlined
def accepts(chance: float, x: float) -> bool:
    """chance < exp(x) for x <= 0, mostly without the exponential.

    Taylor polynomials of odd degree are below exp(x), those of even degree are above it.
    """
    cubic = 1 + x * (1 + x * (0.5 + x / 6))
    if chance < cubic:
        return True
    if chance >= cubic + x * x * x * x / 24:
        return False
    return chance < math.exp(x)


@compiled
def sample_block(
    start: int,
    position: Floats,
    c: float,
    stream: np.uint64,
    number: np.uint64,
    largest_option: float,
    largest_score: float,
    spec: ReelSpec,
    tables: Tables,
    weight: Floats,
) -> int:
    """Sample the options of consecutive connections, the first of which is `start`, into `weight`.

    Returns how many changed.
    """
    size, flat = len(position), abs(c) * largest_score
    waiting, proposed = np.empty(size, np.int64), np.empty(size, np.int64)
    chance, option, score = np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.float32)
    before = weight.copy()
    left = 0
    for i in range(size):
        a = np.float64(position[i])
        if flat + abs(a) * largest_option < FLAT:
            waiting[left] = start + i
            left += 1
        else:
            weight[i] = sample_by_inversion(start + i, a, c, stream, number, spec, tables)
    for attempt in range(ATTEMPTS):
        if left == 0:
            break
        propose(waiting[:left], attempt, stream, number, spec, proposed, chance)
        look_up(waiting[:left], proposed, spec, tables, option, score)
        still = 0
        for n in range(left):
            a = np.float64(position[waiting[n] - start])
            ceiling = flat + abs(a) * largest_option
            below = c * np.float64(score[n]) + a * np.float64(option[n]) - ceiling
            if accepts(np.float64(chance[n]), below):
                weight[waiting[n] - start] = option[n]
            else:
                waiting[still] = waiting[n]
                still += 1
        left = still
    for n in range(left):
        i = waiting[n] - start
        weight[i] = sample_by_inversion(waiting[n], np.float64(position[i]), c, stream, number, spec, tables)
    changed = 0
    for i in range(size):
        changed += weight[i] != before[i]
    return changed


@parallel
def sample_tensor(
    weight: Floats,
    position: Floats,
    c: float,
    stream: np.uint64,
    number: np.uint64,
    largest_option: float,
    largest_score: float,
    spec: ReelSpec,
    tables: Tables,
    counts: Integers,
) -> None:
    """`Engine.sample` for one tensor; how many connections changed goes to `counts` (blocks,)."""
    for b in numba.prange(len(counts)):
        start, end = b * BLOCK, min((b + 1) * BLOCK, len(position))
        counts[b] = sample_block(
            start,
            position[start:end],
            c,
            stream,
            number,
            largest_option,
            largest_score,
            spec,
            tables,
            weight[start:end],
        )
