"""One step of the latent form in compiled code: parallel, on vectors where nothing flips, K options at flips.

Recurrence and staircase stand here a second time because a compiled loop can't call PyTorch; the
engine suite holds them to the first. Everything is elementwise, so threads change no bit.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numba import carray  # type: ignore[attr-defined]

from slotkit.latent import latent
from slotkit.latent.cpu_plan import (
    BLOCK,
    SHARDS,
    WIDTH,
    compiled,
    inlined,
    parallel,
    place,
    pointer,
    tensor_of,
)
from slotkit.latent.cpu_reachable import LEAST_C, MOST, NOT_YET, find, keep
from slotkit.latent.cpu_rows import fill_rows, padded
from slotkit.latent.latent import Hyperparameters

# The smallest normal float32 and float64.
SMALLEST = (float(np.finfo(np.float32).tiny), float(np.finfo(np.float64).tiny))

# Connections that are looked at together for flips: what a few vectors hold.
GROUP = 64

advance_one = inlined(latent.advance)


@inlined
def ordered(bits: Any) -> Any:
    """The bits of float64 numbers as int64 in the same order, whose maximum vectors have; its own inverse.

    Not for -0.0, which would be less than 0.0: adding 0.0 leaves none.
    """
    return bits ^ ((bits >> np.int64(63)) & np.int64(0x7FFFFFFFFFFFFFFF))


@compiled
def float_of(order: Any) -> Any:
    """The number at a place in the order."""
    return np.int64(ordered(order)).view(np.float64)


@compiled
def highest_score(a: Any, c: Any, w: Any, s: Any, k: Any, scores: Any) -> Any:
    """Write c * S_k + A * W_k to `scores` (float64, K or more) and return the highest."""
    for j in range(k):
        scores[j] = c * np.float64(s[j]) + a * np.float64(w[j]) + 0.0
    bits = scores.view(np.int64)
    highest = ordered(bits[0])
    for j in range(k):
        highest = max(highest, ordered(bits[j]))
    return float_of(highest)


@compiled
def choose(a: Any, c: Any, w: Any, s: Any, k: Any, room: Any) -> Any:
    """Greedy selection: the lowest index of the highest score; `room` float64 (2, K or more)."""
    scores = room[0]
    best = highest_score(a, c, w, s, k, scores)
    first = k
    for j in range(k):
        first = min(first, j if scores[j] == best else k)
    # None is equal to the highest if none is a number.
    return first if first < k else 0


@compiled
def bounds(selected: Any, sign: Any, w: Any, s: Any, k: Any, room: Any) -> Any:
    """`slotkit.latent.latent.interval` for one connection; `room` as for `choose`."""
    value, score = np.float64(w[selected]), sign * np.float64(s[selected])
    for j in range(k):
        gap = np.float64(w[j]) - value
        crossing = (score - sign * np.float64(s[j])) / gap + 0.0
        room[0, j] = crossing if gap < 0 else -math.inf
        room[1, j] = crossing if gap > 0 else math.inf
    below, above = room[0].view(np.int64), room[1].view(np.int64)
    lower, upper = ordered(below[0]), ordered(above[0])
    for j in range(k):
        lower, upper = max(lower, ordered(below[j])), min(upper, ordered(above[j]))
    return float_of(lower), float_of(upper)


@compiled
def select(i: Any, number: Any, a: Any, move: Any, plan: Any, rows: Any, room: Any, kept: Any) -> Any:
    """Connection i at latent a: the selected option, its value, and the interval in which it stays.

    `rows` (2, padded(K)) and `room` float64 (2, K) are there to work in; `kept` (pairs, 2) may have what is
    reachable of the connection that has this `number` among all that share it, or is empty.
    """
    w, s, k, sign = rows[0], rows[1], plan.k, move.sign
    moderate = abs(a) * plan.largest_option <= MOST * move.c * plan.largest_score
    if len(kept) and move.c > LEAST_C and moderate:
        pair = kept[number % len(kept)]
        way, known = find(number, pair)
        entry = pair[way]
        if not known:
            # Many reels flip once: what is reachable is worked out when one comes back.
            entry.number, entry.count = number, NOT_YET
        elif entry.count == NOT_YET:
            fill_rows(i, plan, w, s)
            keep(plan, w, s, room.view(np.int64)[1], entry)
        if entry.count > 0:
            j = choose(a, move.c, entry.w, entry.s, entry.count, room)
            lower, upper = bounds(j, sign, entry.w, entry.s, entry.count, room)
            return np.int64(entry.option[j]), entry.w[j], lower, upper
    fill_rows(i, plan, w, s)
    j = choose(a, move.c, w, s, k, room)
    lower, upper = bounds(j, sign, w, s, k, room)
    return j, w[j], lower, upper


@compiled
def advance_block(position: Any, velocity: Any, gradient: Any, h: Any) -> None:
    # The velocity of a dead unit halves every few steps until it is denormal, where processors take a
    # hundred cycles for a multiplication. It is nothing by then, in every sum that it is part of.
    kind = position.dtype.type
    least, nothing = kind(SMALLEST[1] if position.itemsize == 8 else SMALLEST[0]), kind(0)
    for i in range(len(position)):
        position[i], moved = advance_one(position[i], velocity[i], gradient[i], h)
        velocity[i] = moved if abs(moved) >= least else nothing


@compiled
def count_inside(position: Any, lower: Any, upper: Any, scale: Any) -> Any:
    """How many u = position * scale are in [lower, upper]; one that is not a number is not."""
    inside = np.int32(0)
    for i in range(len(position)):
        u = position[i] * scale
        inside += np.int32((u >= lower[i]) & (u <= upper[i]))
    return inside


@compiled
def settle_block(
    start: Any,
    number: Any,
    position: Any,
    lower: Any,
    upper: Any,
    weight: Any,
    move: Any,
    plan: Any,
    events: Any,
    kept: Any,
) -> Any:
    """Choose anew wherever u left its interval, among the connections from `start` on. Returns the flips.

    `events` (connections of the block, 2), if it is not empty, takes connection and option of each flip.
    `kept`, and the `number` of the first connection: see `select`.
    """
    scale, k = position.dtype.type(move.scale), plan.k
    flips, rows, room = 0, np.empty((2, 0), np.float32), np.empty((2, 0), np.float64)
    for group in range(0, len(position), GROUP):
        end = min(group + GROUP, len(position))
        outside = end - group - count_inside(position[group:end], lower[group:end], upper[group:end], scale)
        if outside == 0:
            continue
        if rows.shape[1] == 0:
            rows, room = np.empty((2, padded(k)), np.float32), np.empty((2, max(k, WIDTH)), np.float64)
        for i in range(group, end):
            u = position[i] * scale
            if not (u >= lower[i] and u <= upper[i]):
                option, value, lower[i], upper[i] = select(
                    start + i, number + i, np.float64(position[i]), move, plan, rows, room, kept
                )
                at = start + i if plan.row_major else place(start + i, plan)
                if weight[at] != value:
                    weight[at] = value
                    if len(events):
                        events[flips, 0], events[flips, 1] = start + i, option
                    flips += 1
    return flips


@compiled
def step_block(block: Any, plan: Any, moves: Any, first: Any, prototype: Any, events: Any, kept: Any) -> Any:
    """Advance a block's latents by the gradient (if there is one) and let the weight follow.

    `plan` and `moves` are records (tensors,), `first` as `tensor_of` has it; the dtype of `prototype`
    is that of every array; `events` (connections of all blocks, 2) or empty; `kept` (shards, pairs, 2) of
    REACHABLE, no pairs if nothing is kept: that of every SHARDS-th block. Returns the flips.
    """
    t = tensor_of(block, first)
    row, move = plan[t], moves[t]
    count, kind = row.count, prototype.dtype
    start = (block - first[t]) * BLOCK
    end = min(start + BLOCK, count)
    position = carray(pointer(row.latent), count, kind)[start:end]
    if move.gradient:
        velocity = carray(pointer(row.velocity), count, kind)[start:end]
        gradient = carray(pointer(move.gradient), count, kind)[start:end]
        h = Hyperparameters(
            kind.type(move.lr),
            kind.type(move.momentum),
            kind.type(move.intake),
            move.nesterov != 0,
            kind.type(move.weight_decay),
            kind.type(move.ascent),
        )
        advance_block(position, velocity, gradient, h)
    if not move.follows:
        return 0
    lower = carray(pointer(row.lower), count, kind)[start:end]
    upper = carray(pointer(row.upper), count, kind)[start:end]
    # Longer than the tensor if its memory has gaps: `place` says where to write.
    weight = carray(pointer(row.weight), 1 << 62, kind)
    mine = events[block * BLOCK : (block + 1) * BLOCK]
    number, shard = block // SHARDS * BLOCK, kept[block % SHARDS]
    return settle_block(start, number, position, lower, upper, weight, move, row, mine, shard)


@compiled
def not_finite(bits: Any, exponent: Any) -> Any:
    """How many floats, given as integers, have all bits of the exponent set: infinities and no numbers."""
    count = np.int32(0)
    for i in range(len(bits)):
        count += np.int32((bits[i] & exponent) == exponent)
    return count


@compiled
def look_at_block(block: Any, plan: Any, moves: Any, first: Any, exponent: Any) -> Any:
    """How many gradients of a block are not finite. `exponent` (1,) has the bits of the exponent set."""
    t = tensor_of(block, first)
    if moves[t].gradient == 0:
        return 0
    start, count = (block - first[t]) * BLOCK, plan[t].count
    bits = carray(pointer(moves[t].gradient), count, exponent.dtype)
    return not_finite(bits[start : min(start + BLOCK, count)], exponent[0])


# A function is cached on disk by its name: one compiled twice, with threads and without, would be one.
@parallel
def step_parallel(
    plan: Any, moves: Any, first: Any, flips: Any, prototype: Any, exponent: Any, events: Any, kept: Any
) -> Any:
    """One step of all tensors: arguments as of `step_block` and `look_at_block`, `flips` (blocks,) is
    written. Returns how many gradients are not finite; if there are any, nothing is changed.
    """
    bad = 0
    # Blocks that share a table go one after the other, and where flips are many there is one of each shard.
    # The gradients are looked at by the same threads, which have them in their caches then.
    for shard in numba.prange(SHARDS):
        for block in range(shard, first[-1], SHARDS):
            bad += look_at_block(block, plan, moves, first, exponent)
    if bad == 0:
        for shard in numba.prange(SHARDS):
            for block in range(shard, first[-1], SHARDS):
                flips[block] = step_block(block, plan, moves, first, prototype, events, kept)
    return bad


@compiled
def step_serial(
    plan: Any, moves: Any, first: Any, flips: Any, prototype: Any, exponent: Any, events: Any, kept: Any
) -> Any:
    """`step_parallel` in one thread."""
    bad = 0
    for block in range(first[-1]):
        bad += look_at_block(block, plan, moves, first, exponent)
    if bad == 0:
        for block in range(first[-1]):
            flips[block] = step_block(block, plan, moves, first, prototype, events, kept)
    return bad


@compiled
def gather(events: Any, flips: Any, found: Any) -> None:
    """Put the events of all blocks, `flips` (blocks,) of each, one after the other into `found`."""
    n = 0
    for block in range(len(flips)):
        for j in range(flips[block]):
            found[n, 0], found[n, 1] = events[block * BLOCK + j, 0], events[block * BLOCK + j, 1]
            n += 1
