"""One step of the latent form in compiled code: parallel, on vectors where nothing flips, K options at flips.

Recurrence and staircase stand here a second time because a compiled loop can't call PyTorch; the
engine suite holds them to the first. Everything is elementwise, so threads change no bit.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from slotkit.latent import latent
from slotkit.latent.cpu_choose import bounds, choose, room_words, rows_in
from slotkit.latent.cpu_plan import (
    BLOCK,
    EVENT,
    GROUPS,
    SHARDS,
    add_up,
    array_at,
    bare,
    compiled,
    first_block,
    inlined,
    parallel,
    place,
    tensor_of,
)
from slotkit.latent.cpu_recent import (
    ENTRY,
    LEAST_C,
    LOWER,
    MARGIN,
    MOST,
    OPTION,
    UPPER,
    VALUE,
    begin,
    exchange,
    find_entry,
    forget,
    is_one_of,
    oldest,
    recall,
)
from slotkit.latent.cpu_rows import fill_rows
from slotkit.latent.cpu_slack import MOVED, WAITING, WAYS_WORDS, find_all, find_moved
from slotkit.latent.latent import Hyperparameters

# The smallest normal float32 and float64.
SMALLEST = (float(np.finfo(np.float32).tiny), float(np.finfo(np.float64).tiny))

advance_one = inlined(latent.advance)


@bare
def choose_anew(
    i: Any,
    number: Any,
    a: Any,
    before: Any,
    move: Any,
    plan: Any,
    recent: Any,
    pairs: Any,
    named: Any,
    room: Any,
    infinity: Any,
) -> Any:
    """Connection i at latent a: the selected option, its value, and the interval in which it stays.

    `before` are the value and the interval that it had. At the address `recent` are pairs of entries of
    cpu_recent, or none; the connection has this `number` among all that share them. Unless the option is to
    be `named`, it may be UNKNOWN.
    """
    k, known, entry, zero = plan.k, False, recent, before[0]
    largest, highest = plan.largest_option, plan.largest_score
    moderate = move.c > LEAST_C and abs(a) * largest < MOST * move.c * highest
    if pairs:
        entry, known = find_entry(recent, pairs, number, infinity)
    if known and not moderate:
        forget(entry, infinity)
    elif known:
        u = a / move.c
        at = recall(entry, u, MARGIN * (abs(u) + highest / largest), named, zero, infinity)
        if at:
            words, option = array_at(entry, zero, ENTRY), array_at(entry, infinity, ENTRY)[at + OPTION]
            value, lower, upper = words[at + VALUE], words[at + LOWER], words[at + UPPER]
            exchange(entry, at, option, before, infinity)
            return np.int64(option), np.float64(value), np.float64(lower), np.float64(upper)
    w, s = rows_in(room, k)
    fill_rows(i, plan, w, s)
    j = choose(a, move.c, w, s, k, room)
    lower, upper = bounds(j, move.sign, w, s, k, room)
    if pairs and moderate and w[j] != before[0]:
        if not known and is_one_of(before[0], w, k):
            begin(entry, number, zero, infinity)
            known = True
        if known:
            exchange(entry, oldest(entry, infinity), j, before, infinity)
    return np.int64(j), np.float64(w[j]), lower, upper


@bare
def advance_block(
    position: Any, velocity: Any, gradient: Any, h: Any, before: Any, scale: Any, moved: Any
) -> None:
    """One step of a block; `moved` is how far every u went, which was position * before."""
    # The velocity of a dead unit halves every few steps until it is denormal, where processors take a
    # hundred cycles for a multiplication. It is nothing by then, in every sum that it is part of.
    kind = position.dtype.type
    least, nothing = kind(SMALLEST[1] if position.itemsize == 8 else SMALLEST[0]), kind(0)
    for i in range(len(position)):
        u = position[i] * before
        position[i], pace = advance_one(position[i], velocity[i], gradient[i], h)
        velocity[i] = pace if abs(pace) >= least else nothing
        moved[i] = abs(position[i] * scale - u)


@bare
def advance(start: Any, length: Any, row: Any, move: Any, zero: Any, moved: Any) -> None:
    """`advance_block` for the connections from `start` on of a tensor."""
    kind, skipped = moved.dtype.type, start * moved.itemsize
    h = Hyperparameters(
        kind(move.lr),
        kind(move.momentum),
        kind(move.intake),
        move.nesterov != 0,
        kind(move.weight_decay),
        kind(move.ascent),
    )
    position = array_at(row.latent + skipped, zero, length)
    velocity = array_at(row.velocity + skipped, zero, length)
    gradient = array_at(move.gradient + skipped, zero, length)
    advance_block(position, velocity, gradient, h, kind(move.before), kind(move.scale), moved)


@bare
def settle(
    shard: Any,
    block: Any,
    start: Any,
    length: Any,
    call: Any,
    row: Any,
    move: Any,
    zero: Any,
    infinity: Any,
    ways: Any,
    room: Any,
) -> Any:
    """Let the weight follow the latents, where u left its interval, of a block: the connections from `start`
    on of a tensor. Returns the flips.
    """
    waiting = array_at(ways + 8 * WAITING, np.uint32(0), BLOCK + 1)
    lower = array_at(row.lower, zero, row.count)
    size, scale = lower.itemsize, lower.dtype.type(move.scale)
    position = array_at(row.latent + start * size, zero, length)
    lower = array_at(row.lower + start * size, zero, length)
    upper = array_at(row.upper + start * size, zero, length)
    if call.slack and row.keeps_slack:
        slack = array_at(call.slack + block * GROUPS * size, zero, GROUPS)
        n = find_moved(position, lower, upper, scale, slack, infinity, call.group_size, ways)
    else:
        n = find_all(position, lower, upper, scale, waiting)
    if n == 0:
        return np.uint64(0)
    # Longer than the tensor if its memory has gaps: `place` says where to write.
    weight = array_at(row.weight, zero, 1 << 62)
    events = array_at(call.events + block * BLOCK * EVENT, np.int32(0), 2 * BLOCK)
    pairs = call.pairs if row.keeps_recent else 0
    recent = call.recent + shard * call.pairs * 2 * ENTRY * size
    number, flips = (block - first_block(shard, call)) * BLOCK, np.uint64(0)
    for m in range(n):
        i = waiting[m]
        at = start + i if row.row_major else place(start + i, row)
        before = weight[at], lower[i], upper[i]
        a, named = np.float64(position[i]), call.events != 0
        option, value, lower[i], upper[i] = choose_anew(
            start + i, number + i, a, before, move, row, recent, pairs, named, room, infinity
        )
        if weight[at] != value:
            weight[at] = value
            if call.events:
                events[2 * flips], events[2 * flips + np.uint64(1)] = start + i, option
            flips += np.uint64(1)
    return flips


@bare
def step_shard(shard: Any, call: Any, plan: Any, moves: Any, memory: Any, zero: Any, infinity: Any) -> None:
    """A step of the blocks of a shard, in memory of `working_words`."""
    first, counts = array_at(call.first, 0, call.tensors + 1), array_at(call.counts, 0, call.blocks)
    ways = memory.ctypes.data
    room, moved = ways + 8 * WAYS_WORDS, array_at(ways + 8 * MOVED, zero, BLOCK)
    for block in range(first_block(shard, call), first_block(shard + 1, call)):
        t = tensor_of(block, first)
        row, move, start = plan[t], moves[t], (block - first[t]) * BLOCK
        length = min(BLOCK, row.count - start)
        if move.gradient:
            advance(start, length, row, move, zero, moved)
        counts[block] = 0
        if move.follows:
            counts[block] = settle(shard, block, start, length, call, row, move, zero, infinity, ways, room)


@inlined
def working_words(call: Any) -> Any:
    """The memory that a thread works in, in words of 8 bytes."""
    return WAYS_WORDS + room_words(call.largest_k)


@bare
def largest_exponent(bits: Any, infinity: Any) -> Any:
    """Of floats, given as integers: infinities and what is not a number have all bits of it set."""
    kind = bits.dtype.type
    largest = kind(0)
    for i in range(len(bits)):
        largest = max(largest, kind(bits[i] & infinity))
    return largest


@bare
def look_at_shard(shard: Any, call: Any, plan: Any, moves: Any, infinity: Any) -> Any:
    """How many blocks of a shard have a gradient that is not finite."""
    first = array_at(call.first, 0, call.tensors + 1)
    bad = 0
    for block in range(first_block(shard, call), first_block(shard + 1, call)):
        t = tensor_of(block, first)
        if moves[t].gradient:
            start = (block - first[t]) * BLOCK
            bits = array_at(moves[t].gradient, infinity, plan[t].count)[start : start + BLOCK]
            bad += largest_exponent(bits, infinity) == infinity
    return bad


# A function is cached on disk by its name: one compiled twice, with threads and without, would be one.
@parallel
def step_parallel(call: Any, plan: Any, moves: Any, zero: Any, infinity: Any) -> Any:
    """One step of all tensors: the CALL (1,), their PLAN and MOVE records, what KINDS has for their dtype.

    Returns how many blocks have a gradient that is not finite; if there are any, nothing is changed.
    """
    bad = 0
    # The gradients are looked at by the same threads, which have them in their caches then.
    for shard in numba.prange(SHARDS):
        bad += look_at_shard(shard, call[0], plan, moves, infinity)
    if bad == 0:
        for shard in numba.prange(SHARDS):
            memory = np.empty(working_words(call[0]), np.int64)
            step_shard(shard, call[0], plan, moves, memory, zero, infinity)
        add_up(call[0])
    return bad


@compiled
def step_serial(call: Any, plan: Any, moves: Any, zero: Any, infinity: Any) -> Any:
    """`step_parallel` in one thread."""
    bad = 0
    for shard in range(SHARDS):
        bad += look_at_shard(shard, call[0], plan, moves, infinity)
    if bad == 0:
        memory = np.empty(working_words(call[0]), np.int64)
        for shard in range(SHARDS):
            step_shard(shard, call[0], plan, moves, memory, zero, infinity)
        add_up(call[0])
    return bad


@compiled
def gather(events: Any, flips: Any, found: Any) -> None:
    """Put the events of all blocks, `flips` (blocks,) of each, one after the other into `found`."""
    n = 0
    for block in range(len(flips)):
        for j in range(flips[block]):
            found[n, 0], found[n, 1] = events[block * BLOCK + j, 0], events[block * BLOCK + j, 1]
            n += 1
