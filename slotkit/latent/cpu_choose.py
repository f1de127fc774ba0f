"""The staircase in compiled code: the option with the highest score, and the interval in which it stays.

`slotkit.latent.latent.reselect` once more, for loops that can't call PyTorch; tests hold them to it, to the
last bit. A few options are compared one after the other; of many, those that may be it are found on vectors
first. Vectors have the maximum of integers only: the bits of a float are mapped to an integer of that order.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from slotkit.latent.cpu_plan import array_at, bare, inlined
from slotkit.latent.cpu_rows import padded

# Up to so many options, one after the other is faster.
FEW = 16

# Of many, those that may be it are found in float32. A score c * S_k + A * W_k is then wrong by 3 * 2^-24 of
# |c S_k| + |A W_k| or less, a crossing by 3 * 2^-24 of itself: ROUGH is more than twice that. FAINT is where
# float32 has lost none of its digits.
ROUGH, FAINT = np.float32(2.0**-20), np.float32(1e-30)


# Memory to work in for K options is handed on as an address (an array is seven arguments): two rows of
# float64, of `row_of(k)` each, then options and initial scores, padded(K) of float32 each.


@inlined
def row_of(k: Any) -> Any:
    """How many numbers a row has."""
    return max(k, FEW)


@inlined
def room_words(k: Any) -> Any:
    """How much memory there has to be, in words of 8 bytes."""
    return 2 * row_of(k) + padded(k)


@inlined
def rows_in(room: Any, k: Any) -> Any:
    """The arrays for options and initial scores."""
    start = room + 16 * row_of(k)
    options = array_at(start, np.float32(0), padded(k))
    return options, array_at(start + 4 * padded(k), np.float32(0), padded(k))


@inlined
def ordered(bits: Any) -> Any:
    """The bits of float64 numbers as int64 in the same order, whose maximum vectors have; its own inverse.

    Not for -0.0, which would be less than 0.0: adding 0.0 leaves none.
    """
    return bits ^ ((bits >> np.int64(63)) & np.int64(0x7FFFFFFFFFFFFFFF))


@bare
def float_of(order: Any) -> Any:
    """The number at a place in the order."""
    return np.int64(ordered(order)).view(np.float64)


@bare
def bits_of(number: Any) -> Any:
    """The bits of a float32 number, as int32; of those from 0 up the order is that of the numbers."""
    return np.float32(number).view(np.int32)


@bare
def number_of(bits: Any) -> Any:
    return np.int32(bits).view(np.float32)


@bare
def place_of(number: Any) -> Any:
    """`ordered` for a float32 number, as int32."""
    bits = bits_of(number + np.float32(0))
    return np.int32(bits ^ np.int32(np.int32(bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@bare
def number_at(place: Any) -> Any:
    """The float32 number at a place in the order."""
    return number_of(np.int32(place ^ np.int32(np.int32(place >> np.int32(31)) & np.int32(0x7FFFFFFF))))


@bare
def highest_score(a: Any, c: Any, w: Any, s: Any, k: Any, room: Any) -> Any:
    """Write c * S_k + A * W_k to the first row of the room and return the highest."""
    scores, bits = array_at(room, 0.0, k), array_at(room, 0, k)
    for j in range(k):
        scores[j] = c * np.float64(s[j]) + a * np.float64(w[j]) + 0.0
    highest = ordered(bits[0])
    for j in range(k):
        highest = max(highest, ordered(bits[j]))
    return float_of(highest)


@bare
def choose(a: Any, c: Any, w: Any, s: Any, k: Any, room: Any) -> Any:
    """Greedy selection: the lowest index of the highest score; 0 if no score is a number."""
    first, end, limit, rough = 0, k, np.float32(-math.inf), array_at(room, np.float32(0), k)
    if k > FEW:
        first, end, limit = choose_roughly(a, c, w, s, k, rough)
    selected, highest = 0, -math.inf
    for j in range(first, end):
        if k <= FEW or rough[j] >= limit:
            score = c * np.float64(s[j]) + a * np.float64(w[j])
            if score > highest:
                selected, highest = j, score
    return selected


@bare
def choose_roughly(a: Any, c: Any, w: Any, s: Any, k: Any, rough: Any) -> Any:
    """Write the scores in float32 to `rough`; the selected option is among those from the first index to the
    second (exclusive) whose rough score is the limit, the third number, or more.
    """
    rough_a, rough_c = np.float32(a), np.float32(c)
    highest, reach = np.int32(-(2**31)), np.int32(0)
    for j in range(k):
        x, y = rough_c * s[j], rough_a * w[j]
        rough[j] = x + y
        highest = max(highest, place_of(x + y))
        reach = max(reach, bits_of(abs(x) + abs(y)))
    largest = number_of(reach)
    limit = number_at(highest) - largest * ROUGH
    faint = (c != 0 and abs(c) < FAINT) or (a != 0 and abs(a) < FAINT) or not largest > FAINT
    if faint or not abs(limit) < math.inf:
        limit = np.float32(-math.inf)
        for j in range(k):
            rough[j] = 0
    first, last = np.int32(k), np.int32(-1)
    for j in range(k):
        first = min(first, np.int32(j) if rough[j] >= limit else np.int32(k))
        last = max(last, np.int32(j) if rough[j] >= limit else np.int32(-1))
    return np.int64(first), np.int64(last) + 1, limit


@bare
def bounds(selected: Any, sign: Any, w: Any, s: Any, k: Any, room: Any) -> Any:
    """`slotkit.latent.latent.interval` for one connection."""
    value, score = np.float64(w[selected]), sign * np.float64(s[selected])
    if k > FEW:
        return bounds_of_many(value, score, sign, w, s, k, selected, array_at(room, np.float32(0), k))
    lower, upper = -math.inf, math.inf
    for j in range(k):
        gap = np.float64(w[j]) - value
        crossing = (score - sign * np.float64(s[j])) / gap + 0.0
        if gap < 0 and crossing > lower:
            lower = crossing
        if gap > 0 and crossing < upper:
            upper = crossing
    return lower, upper


@bare
def bounds_of_many(
    value: Any, score: Any, sign: Any, w: Any, s: Any, k: Any, selected: Any, rough: Any
) -> Any:
    """`bounds`, where float32 says which of many options may be the next to cross. `rough` (k,) is room."""
    here = w[selected]
    lowest, highest = cross_roughly(here, s[selected], np.float32(sign), w, s, k, rough)
    first, last = np.int32(k), np.int32(-1)
    first_above, last_above = np.int32(k), np.int32(-1)
    for j in range(k):
        near = (w[j] < here) & (rough[j] >= lowest)
        first = min(first, np.int32(j) if near else np.int32(k))
        last = max(last, np.int32(j) if near else np.int32(-1))
        near = (w[j] > here) & (rough[j] <= highest)
        first_above = min(first_above, np.int32(j) if near else np.int32(k))
        last_above = max(last_above, np.int32(j) if near else np.int32(-1))
    lower, upper = -math.inf, math.inf
    for j in range(first, last + 1):
        gap = np.float64(w[j]) - value
        if gap < 0 and rough[j] >= lowest:
            lower = max(lower, (score - sign * np.float64(s[j])) / gap + 0.0)
    for j in range(first_above, last_above + 1):
        gap = np.float64(w[j]) - value
        if gap > 0 and rough[j] <= highest:
            upper = min(upper, (score - sign * np.float64(s[j])) / gap + 0.0)
    return lower, upper


@bare
def cross_roughly(value: Any, score: Any, sign: Any, w: Any, s: Any, k: Any, rough: Any) -> Any:
    """Write in float32 where every option crosses one of this value and score to `rough`. Of the smaller
    options the next to cross is among those that do it at the first number returned or above; of the larger
    at the second or below.
    """
    never_below, never_above = np.float32(-math.inf), np.float32(math.inf)
    below, above = place_of(never_below), place_of(never_above)
    for j in range(k):
        crossing = sign * (score - s[j]) / (w[j] - value)
        rough[j] = crossing
        below = max(below, place_of(crossing if w[j] < value else never_below))
    for j in range(k):
        above = min(above, place_of(rough[j] if w[j] > value else never_above))
    lowest, highest = number_at(below), number_at(above)
    # Where there is no such option, or beyond float32, all are asked.
    finite_below, finite_above = abs(lowest) < never_above, abs(highest) < never_above
    lowest = lowest - abs(lowest) * ROUGH - FAINT if finite_below else never_below
    highest = highest + abs(highest) * ROUGH + FAINT if finite_above else never_above
    return lowest, highest
