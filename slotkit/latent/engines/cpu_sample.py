"""Probabilistic sampling on the CPU: a draw that costs the same at every stage of training.

Connection i takes option j with a probability in proportion to e_j = exp(c S_j + A W_j). Its options are read
in parts of four, one Philox block each; part p belongs to group p % groups. A draw proposes a group by a small
table, one of its parts by chance, then an option of that part, or none. This is rejection sampling (von
Neumann 1951): where nothing is taken, another attempt follows. Every option is taken with the same multiple
of e_j whatever the table is, so the distribution is exact up to the rounding of float32. A good table only
makes attempts few, and because A moves slowly, it stays good for hundreds of steps. It depends on the reel
and on A rounded to a cell, on nothing that was before: whether it was kept or made anew, draws are the same.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import numba
import numpy as np
import numpy.typing as npt

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

Bytes: TypeAlias = npt.NDArray[np.uint8]

# Options of a part, and the largest number of groups.
PART, GROUPS = 4, 32
# Attempts before the exact inverse CDF, and the spread of c S_j (in nats) up to which there are any.
ATTEMPTS, FLAT = 16, 4.0
# Draws have streams of their own here; the counter's second word holds the number of the attempt.
REJECTION, LAST_ATTEMPT = 16, np.uint64(0xFFFF << 16)
# A cell of |A| bound + 1/2 keeps three bits after the leading one: it is at most an eighth of that wide.
CELL_BITS, NO_CELL = np.int32(20), -1
# Connections whose proposals are made together.
TOGETHER = 32

# 2**x = 2**n exp(r log(2)) with n whole and |r| <= 1/2; the Taylor polynomial of degree 6 errs by less than
# 2e-7 of the result.
LOG2E = np.float32(1 / math.log(2))
T1, T2, T3, T4, T5, T6 = (np.float32(math.log(2) ** n / math.factorial(n)) for n in range(1, 7))
NOTHING, A_HALF, ONE, UNDERFLOW = np.float32(0), np.float32(0.5), np.float32(1), np.float32(-126)
# A beyond it is in one cell; and a point that no option reaches.
LARGEST, BEYOND = np.float32(1e20), np.float32(1e30)


class Proposals(NamedTuple):
    """What is kept for the draws of n connections: `groups` + 12 bytes each, 44 at most.

    Attributes:
        ends: uint8 (groups, n). Group g of connection i is proposed with a chance of
            (ends[g, i] - ends[g - 1, i]) / 256.
        cells: int32 (n,), the cell of A that this was made for, NO_CELL at first.
        top: float32 (n,), the option W with the largest A W.
        unit: float32 (n,), what one 256th of chance stands for, as a sum of exp(A (W - top)).
    """

    ends: Bytes
    cells: Integers
    top: Singles
    unit: Singles


class Work(NamedTuple):
    """Memory to work in, of all threads or of one: 0.4 MB each."""

    integers: Integers
    floats: Singles
    bytes: Bytes
    words: npt.NDArray[np.uint32]


class Draw(NamedTuple):
    """Draw `number` of `stream` for a block of connections, the first of which is `first`, a multiple of 4.

    `bound` is the largest |W|. c S_j - ceiling lies between -spread and 0.
    """

    first: int
    stream: np.uint64
    number: np.uint64
    c: float
    bound: np.float32
    ceiling: float
    spread: float
    spec: ReelSpec
    tables: Tables
    own: Proposals
    work: Work


def new_work(threads: int) -> Work:
    """Memory for so many threads."""
    return Work(
        np.empty((threads, 6, BLOCK + 1), np.int32),
        np.empty((threads, 12, BLOCK), np.float32),
        np.empty((threads, 5, BLOCK), np.uint8),
        np.empty((threads, BLOCK + 3), np.uint32),
    )


@compiled
def parts_of(spec: ReelSpec) -> int:
    """How many parts the options of a connection have."""
    return 2 * (-(-spec.k // (2 * PART))) if spec.symmetric else -(-spec.k // PART)


def new_proposals(n: int, spec: ReelSpec) -> Proposals:
    """Empty ones, for n connections."""
    parts = parts_of(spec)
    groups = -(-parts // -(-parts // GROUPS))
    cells, floats = np.full(n, NO_CELL, np.int32), np.zeros((2, n), np.float32)
    return Proposals(np.zeros((groups, n), np.uint8), cells, floats[0], floats[1])


@inlined
def power(x: np.float32) -> np.float32:
    """2**x for x <= 0, in float32; 2**-126 below that. A loop of it compiles to vector instructions."""
    value = max(x, UNDERFLOW)
    n = np.rint(value)
    r = value - n
    scale = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    return (ONE + r * (T1 + r * (T2 + r * (T3 + r * (T4 + r * (T5 + r * T6)))))) * scale


@inlined
def option_of(part: int, lane: int, symmetric: bool) -> int:
    """The number of an option. Of options in pairs +v, -v a part has four of one sign."""
    return 8 * (part >> 1) + 2 * lane + (part & 1) if symmetric else PART * part + lane


@inlined
def has_option(part: int, lane: int, spec: ReelSpec) -> bool:
    """Whether there is such an option: the last parts may have fewer than four."""
    return option_of(part, lane, spec.symmetric) < spec.k


@inlined
def lane_of(words: Words, lane: int) -> np.uint64:
    """words[lane] for a lane that is not a constant."""
    low = words[0] if lane == 0 else words[1]
    high = words[2] if lane == 2 else words[3]
    return low if lane < 2 else high


@compiled
def read_parts(owners: Integers, parts: Integers, draw: Draw, w: Singles) -> None:
    """The four options of each part, into w (4, n); any number where there is no such option."""
    spec, bound, halved = draw.spec, draw.spec.bound, 1 if draw.spec.symmetric else 0
    if len(draw.tables[1]):
        for n in range(len(parts)):
            for lane in range(PART):
                j = option_of(parts[n], lane, spec.symmetric)
                w[lane, n] = draw.tables[0][owners[n], min(j, spec.k - 1)]
        return
    for n in range(len(parts)):
        x = words_of(owners[n], parts[n] >> halved, OPTIONS, spec)
        signed = bound * np.float32(1 - 2 * (parts[n] & halved))
        w[0, n], w[1, n] = symmetric_uniform(x[0]) * signed, symmetric_uniform(x[1]) * signed
        w[2, n], w[3, n] = symmetric_uniform(x[2]) * signed, symmetric_uniform(x[3]) * signed


@compiled
def read_scores(connections: Integers, options: Integers, draw: Draw, out: Singles) -> None:
    """The initial score of one option of each connection."""
    spec, scale = draw.spec, draw.spec.score_scale
    if len(draw.tables[1]):
        for n in range(len(options)):
            out[n] = draw.tables[1][connections[n], options[n]]
        return
    for n in range(len(options)):
        words = words_of(connections[n], options[n] >> 2, SCORES, spec)
        out[n] = unit_uniform(lane_of(words, options[n] & 3)) * spec.bound * scale


@compiled
def tabulate(stale: Integers, cells: Integers, draw: Draw, owners: Integers, w: Singles, weights: Singles) -> None:
    """Make the proposals of at most TOGETHER connections, numbers in the block, for their new cells.

    owners (2, n), w (parts, 4, n) and weights (parts + 4, n) are overwritten.
    """
    spec, own, n_stale, n_groups = draw.spec, draw.own, len(stale), len(draw.own.ends)
    n_parts = len(w)
    signs, tops, edges, units = weights[n_parts], weights[n_parts + 1], weights[n_parts + 2], weights[n_parts + 3]
    for n in range(n_stale):
        owners[0, n] = ((draw.first + stale[n]) // spec.stride) % spec.owners
        signs[n], tops[n], units[n] = np.float32(-1) if cells[n] & 1 else ONE, -BEYOND, NOTHING
        # The A of the smallest size in the cell: there every exp(A (W - top)) is largest.
        size = np.int32((cells[n] >> 1) << CELL_BITS).view(np.float32) - A_HALF
        edges[n] = size / draw.bound * LOG2E
    for p in range(n_parts):
        for n in range(n_stale):
            owners[1, n] = p
        read_parts(owners[0, :n_stale], owners[1, :n_stale], draw, w[p])
        w0, w1, w2, w3 = w[p, 0], w[p, 1], w[p, 2], w[p, 3]
        has1, has2, has3 = has_option(p, 1, spec), has_option(p, 2, spec), has_option(p, 3, spec)
        for n in range(n_stale):
            a, b, c, d, sign = w0[n], w1[n], w2[n], w3[n], signs[n]
            w0[n], w1[n], w2[n], w3[n] = sign * a, sign * (b if has1 else a), sign * (c if has2 else a), sign * (d if has3 else a)
            tops[n] = max(max(max(w0[n], w1[n]), max(w2[n], w3[n])), tops[n])
    for p in range(n_parts):
        w0, w1, w2, w3 = w[p, 0], w[p, 1], w[p, 2], w[p, 3]
        has1, has2, has3 = has_option(p, 1, spec), has_option(p, 2, spec), has_option(p, 3, spec)
        for n in range(n_stale):
            edge, top = edges[n], tops[n]
            e0, e1 = power(edge * (w0[n] - top)), power(edge * (w1[n] - top))
            e2, e3 = power(edge * (w2[n] - top)), power(edge * (w3[n] - top))
            weights[p, n] = (e0 + (e1 if has1 else NOTHING)) + ((e2 if has2 else NOTHING) + (e3 if has3 else NOTHING))
    for p in range(n_groups, n_parts):
        for n in range(n_stale):
            weights[p % n_groups, n] = max(weights[p % n_groups, n], weights[p, n])
    for g in range(n_groups):
        for n in range(n_stale):
            units[n] += weights[g, n]
    # Each group is rounded up, by less than one, so that the last end is 255 at most.
    for n in range(n_stale):
        units[n] *= np.float32(1.0001) / np.float32(255 - n_groups)
        i, end = draw.first + stale[n], NOTHING
        for g in range(n_groups):
            end += np.ceil(weights[g, n] / units[n])
            own.ends[g, i] = np.uint8(end)
        own.cells[i], own.top[i], own.unit[i] = cells[n], signs[n] * tops[n], units[n]


@compiled
def refresh(a: Singles, draw: Draw) -> None:
    """Make the proposals anew where A has gone to another cell."""
    stale, cells, kept = draw.work.integers[0], draw.work.integers[1], draw.own.cells[draw.first : draw.first + len(a)]
    for n in range(len(a)):
        size = np.float32(min(abs(a[n]) * draw.bound, LARGEST) + A_HALF)
        cells[n] = np.int32(np.int32(size.view(np.int32) >> CELL_BITS) << np.int32(1)) | np.int32(a[n] < 0)
    m = 0
    for n in range(len(a)):
        stale[m] = n
        m += 1 if cells[n] != kept[n] else 0
    if m == 0:
        return
    for o in range(m):
        cells[o] = cells[stale[o]]
    n_parts = parts_of(draw.spec)
    owners, w = np.empty((2, TOGETHER), np.int32), np.empty((n_parts, PART, TOGETHER), np.float32)
    weights = np.empty((n_parts + 4, TOGETHER), np.float32)
    for o in range(0, m, TOGETHER):
        tabulate(stale[o : min(o + TOGETHER, m)], cells[o : min(o + TOGETHER, m)], draw, owners, w, weights)


@inlined
def fraction_of(word: np.uint32) -> np.float32:
    """The lower 24 bits of a word as a number in (0, 1), exactly."""
    return np.float32(np.int32((word & np.uint32(0xFFFFFF)) | np.uint32(1))) * np.float32(2.0**-24)


@compiled
def find_groups(chance: Bytes, draw: Draw, group: Bytes, low: Bytes, high: Bytes) -> None:
    """How many ends are not above the chance of each connection, and the ends on both sides of it."""
    for n in range(len(chance)):
        group[n], low[n], high[n] = 0, 0, 255
    for g in range(len(draw.own.ends)):
        row = draw.own.ends[g][draw.first : draw.first + len(chance)]
        for n in range(len(chance)):
            end, least, most = row[n], low[n], high[n]
            passed = end <= chance[n]
            group[n] += np.uint8(passed)
            low[n] = max(least, end) if passed else least
            high[n] = most if passed else min(most, end)


@compiled
def propose_first(draw: Draw, parts: Integers, points: Singles) -> None:
    """A part and a point in it for all connections of the block."""
    n, words, bytes_ = len(parts), draw.work.words, draw.work.bytes
    chance, group, low, high = bytes_[0, :n], bytes_[1, :n], bytes_[2, :n], bytes_[3, :n]
    for b in range((n + 3) // 4):
        index = np.uint64(draw.first // 4 + b)
        x = philox_one(index & WORD, index >> HALF, draw.number, draw.stream, draw.spec.key_0, draw.spec.key_1)
        words[4 * b], words[4 * b + 1] = np.uint32(x[0]), np.uint32(x[1])
        words[4 * b + 2], words[4 * b + 3] = np.uint32(x[2]), np.uint32(x[3])
    for m in range(n):
        chance[m] = np.uint8(words[m] >> np.uint32(24))
    find_groups(chance, draw, group, low, high)
    groups, unit = len(draw.own.ends), draw.own.unit[draw.first : draw.first + n]
    slots = np.float32(-(-parts_of(draw.spec) // groups))
    for m in range(n):
        fine = fraction_of(words[m]) * slots
        slot = np.floor(fine)
        parts[m] = np.int32(group[m]) + np.int32(slot) * np.int32(groups)
        point = (fine - slot) * np.float32(np.int32(high[m]) - np.int32(low[m])) * unit[m]
        points[m] = point if group[m] < groups else BEYOND


@compiled
def propose_again(attempt: int, waiting: Integers, draw: Draw, parts: Integers, points: Singles) -> None:
    """The same for a later attempt, of the connections that wait."""
    ends, words, later = draw.own.ends, draw.work.words, np.uint64(attempt) << np.uint64(16)
    groups = len(ends)
    slots = np.float32(-(-parts_of(draw.spec) // groups))
    for n in range(len(waiting)):
        index = np.uint64(np.int32(draw.first) + waiting[n]) >> np.uint64(2)
        low, high = index & WORD, (index >> HALF) | later
        x = philox_one(low, high, draw.number, draw.stream, draw.spec.key_0, draw.spec.key_1)
        words[n] = np.uint32(lane_of(x, waiting[n] & 3))
    for n in range(len(waiting)):
        i, chance, group = draw.first + waiting[n], words[n] >> np.uint32(24), 0
        for step in (32, 16, 8, 4, 2, 1):
            if group + step <= groups and ends[group + step - 1, i] <= chance:
                group += step
        least, most = ends[group - 1, i] if group > 0 else np.uint8(0), ends[min(group, groups - 1), i]
        fine = fraction_of(words[n]) * slots
        slot = np.floor(fine)
        parts[n] = group + np.int32(slot) * groups
        point = (fine - slot) * np.float32(np.int32(most) - np.int32(least)) * draw.own.unit[i]
        points[n] = point if group < groups else BEYOND


@compiled
def walk(points: Singles, slopes: Singles, tops: Singles, w: Singles, lanes: Bytes, values: Singles, chances: Singles) -> None:
    """Which option of its part each point belongs to, and how far into it, from 0 to 1: else nothing is taken.

    The options of a part lie one after the other, each as long as exp(A (W - top)); a slope is A / log(2).
    """
    for n in range(len(points)):
        slope, top, point = slopes[n], tops[n], points[n]
        w0, w1, w2, w3 = w[0, n], w[1, n], w[2, n], w[3, n]
        e0, e1 = power(slope * (w0 - top)), power(slope * (w1 - top))
        e2, e3 = power(slope * (w2 - top)), power(slope * (w3 - top))
        end0 = e0
        end1 = end0 + e1
        end2 = end1 + e2
        in1, in2, in3 = end0 <= point, end1 <= point, end2 <= point
        value, length, start = w0, e0, NOTHING
        value, length, start = w1 if in1 else value, e1 if in1 else length, end0 if in1 else start
        value, length, start = w2 if in2 else value, e2 if in2 else length, end1 if in2 else start
        value, length, start = w3 if in3 else value, e3 if in3 else length, end2 if in3 else start
        lanes[n] = np.uint8(in1) + np.uint8(in2) + np.uint8(in3)
        values[n], chances[n] = value, (point - start) / length


@compiled
def decide(waiting: Integers, draw: Draw, parts: Integers, lanes: Bytes, chances: Singles) -> np.float32:
    """Let initial scores decide, where they have to: a chance becomes 0 or 1.

    Returns the chance below which an option is taken.
    """
    spec, sure = draw.spec, np.float32(math.exp(-draw.spread))
    unsure, connections, options = draw.work.integers[0], draw.work.integers[1], draw.work.integers[2]
    scores = draw.work.floats[0]
    if spec.k % (2 * PART if spec.symmetric else PART) or parts_of(spec) % len(draw.own.ends):
        for n in range(len(waiting)):
            if not has_option(parts[n], lanes[n], spec):
                chances[n] = ONE
    m = 0
    for n in range(len(waiting)):
        unsure[m] = n
        m += 1 if (chances[n] >= sure) & (chances[n] < ONE) else 0
    for o in range(m):
        n = unsure[o]
        connections[o] = np.int32(draw.first) + waiting[n]
        options[o] = np.int32(option_of(parts[n], lanes[n], spec.symmetric))
    read_scores(connections[:m], options[:m], draw, scores)
    for o in range(m):
        scores[o] = power(np.float32(draw.c * scores[o] - draw.ceiling) * LOG2E)
    for o in range(m):
        chances[unsure[o]] = NOTHING if chances[unsure[o]] < scores[o] else ONE
    return sure


@compiled
def attempt_all(a: Singles, draw: Draw, weight: Floats, waiting: Integers) -> tuple[int, int]:
    """Attempts for the connections of a block.

    Returns how many weights have changed, and how many connections are left without an option; these are
    written to `waiting`, which is 0 to n - 1 at first.
    """
    first, spec, size, changed, floats = draw.first, draw.spec, len(a), 0, draw.work.floats
    parts, owners, lanes, w = draw.work.integers[3], draw.work.integers[4], draw.work.bytes[4], floats[7:11]
    points, values, chances, slopes = floats[1], floats[2], floats[3], floats[4]
    for n in range(size):
        slopes[n] = a[n] * LOG2E
    left = size
    for attempt in range(ATTEMPTS):
        here = waiting[:left]
        if attempt == 0:
            propose_first(draw, parts[:left], points)
            own_slopes, tops = slopes, draw.own.top[first : first + size]
        else:
            propose_again(attempt, here, draw, parts, points)
            own_slopes, tops = floats[5], floats[6]
            for n in range(left):
                own_slopes[n], tops[n] = slopes[here[n]], draw.own.top[first + here[n]]
        for n in range(left):
            owners[n] = np.int32(first) + here[n]
        if spec.stride != 1 or spec.owners < first + size:
            for n in range(left):
                owners[n] = (owners[n] // spec.stride) % spec.owners
        read_parts(owners[:left], parts[:left], draw, w)
        walk(points[:left], own_slopes, tops, w, lanes, values, chances)
        sure = decide(here, draw, parts, lanes, chances)
        left = 0
        for n in range(len(here)):
            place, new, taken = here[n], values[n], chances[n] < sure
            old = weight[place]
            weight[place] = new if taken else old
            changed += 1 if taken & (new != old) else 0
            waiting[left] = place
            left += 0 if taken else 1
        if left == 0:
            break
    return changed, left


@compiled
def sample_by_inversion(i: int, a: float, draw: Draw) -> np.float32:
    """`slotkit.selection.sample` for one connection: exact, K exponentials. Returns the option's value."""
    spec, k = draw.spec, draw.spec.k
    w, s = np.empty(k + 7, np.float32), np.empty(k + 7, np.float32)
    scores, shares = np.empty(k, np.float64), np.empty(k, np.float32)
    low, high = np.uint64(i) & WORD, np.uint64(i) >> HALF
    words = philox_one(low, high | LAST_ATTEMPT, draw.number, draw.stream, spec.key_0, spec.key_1)
    fill(i, spec, draw.tables, w, s)
    highest, total = -math.inf, 0.0
    for j in range(k):
        scores[j] = draw.c * np.float64(s[j]) + a * np.float64(w[j]) + 0.0
        highest = max(highest, scores[j])
    for j in range(k):
        shares[j] = power(np.float32(scores[j] - highest) * LOG2E)
        total += shares[j]
    rest, best = np.float64(unit_uniform(words[0])) * total, 0
    for j in range(k):
        rest -= shares[j]
        if rest <= 0:
            return np.float32(w[j])
        best = j if shares[j] > shares[best] else best
    # Rounding can leave a rest after the last option. Then the option with the largest share is taken.
    return np.float32(w[best])


@compiled
def sample_block(position: Floats, is_flat: bool, draw: Draw, weight: Floats) -> int:
    """Sample the weights of a block; returns how many changed. Scores that are not flat need every exponential."""
    waiting, a, changed, left = draw.work.integers[5], draw.work.floats[11][: len(weight)], 0, len(weight)
    for n in range(left):
        waiting[n], a[n] = n, position[n]
    if is_flat:
        refresh(a, draw)
        changed, left = attempt_all(a, draw, weight, waiting)
    for o in range(left):
        n = waiting[o]
        value = sample_by_inversion(draw.first + n, np.float64(position[n]), draw)
        changed += weight[n] != value
        weight[n] = value
    return changed


@parallel
def sample_tensor(
    weight: Floats,
    position: Floats,
    c: float,
    stream: np.uint64,
    number: np.uint64,
    bound: float,
    flat: float,
    spec: ReelSpec,
    tables: Tables,
    own: Proposals,
    work: Work,
    counts: Integers,
) -> None:
    """`Engine.sample` for one tensor; how many connections changed goes to `counts` (blocks,).

    bound and flat are the largest |W| and |c S|.
    """
    # Scores are positive, unless they come from a table.
    ceiling = flat if c > 0 or len(tables[1]) else 0.0
    spread = 2 * flat if len(tables[1]) else flat
    for b in numba.prange(len(counts)):
        t = numba.get_thread_id()
        mine = Work(work.integers[t], work.floats[t], work.bytes[t], work.words[t])
        draw = Draw(b * BLOCK, stream, number, c, np.float32(bound), ceiling, spread, spec, tables, own, mine)
        end = min((b + 1) * BLOCK, len(position))
        counts[b] = sample_block(position[b * BLOCK : end], flat < FLAT, draw, weight[b * BLOCK : end])
