"""Probabilistic sampling on the CPU: a draw that costs the same at every stage of training.

Connection i takes option j with a probability in proportion to e_j = exp(c S_j + A W_j). A draw proposes a
group of parts by the table of `cpu_proposals`, one of its parts by chance, then an option of that part, or
none. This is rejection sampling (von Neumann 1951): where nothing is taken, another attempt follows. Every
option is taken with the same multiple of e_j whatever the table is, so the distribution is exact, up to the
rounding of float32: a probability is right to a few millionths of itself.
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
    fill,
    unit_uniform,
    words_of,
)
from slotkit.latent.engines.cpu_compiling import compiled, inlined, parallel
from slotkit.latent.engines.cpu_proposals import (
    BEYOND,
    LOG2E,
    NOTHING,
    ONE,
    Bytes,
    Draw,
    Proposals,
    Work,
    fill_gaps,
    has_gaps,
    has_option,
    lane_of,
    option_of,
    parts_of,
    power,
    read_parts,
    refresh,
)
from slotkit.philox_cpu import HALF, WORD, philox_one
from slotkit.reel import SCORES, ReelSpec

# Attempts before the exact inverse CDF, and the spread of c S_j (in nats) up to which there are any.
ATTEMPTS, FLAT = 64, 4.0
# Draws have streams of their own here; the counter's second word holds the number of the attempt.
REJECTION, LAST_ATTEMPT = 16, np.uint64(0xFFFF << 16)


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
        x = philox_one(
            index & WORD, index >> HALF, draw.number, draw.stream, draw.spec.key_0, draw.spec.key_1
        )
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
        part = np.int32(group[m]) + np.int32(slot) * np.int32(groups)
        parts[m] = part if group[m] < groups else 0
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
        parts[n] = group + np.int32(slot) * groups if group < groups else 0
        point = (fine - slot) * np.float32(np.int32(most) - np.int32(least)) * draw.own.unit[i]
        points[n] = point if group < groups else BEYOND


@compiled
def walk(
    points: Singles,
    slopes: Singles,
    tops: Singles,
    w: Singles,
    lanes: Bytes,
    values: Singles,
    chances: Singles,
) -> None:
    """Which option of its part each point belongs to, and how far into it: 1 or more where nothing is taken.

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
    if has_gaps(spec) or parts_of(spec) % len(draw.own.ends):
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
def attempt_all(  # noqa: PLR0912 (one pass over a block)
    a: Singles, draw: Draw, weight: Floats, waiting: Integers
) -> tuple[int, int]:
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
        # A number that is no option may lie beyond the top, where its length would be none that floats have.
        fill_gaps(parts[:left], own_slopes, spec, w)
        walk(points[:left], own_slopes, tops, w, lanes, values, chances)
        sure = decide(here, draw, parts, lanes, chances)
        if attempt == 0:
            for n in range(size):
                old, new, taken = weight[n], values[n], chances[n] < sure
                weight[n] = new if taken else old
                changed += 1 if taken & (new != old) else 0
        left = 0
        for n in range(len(here)):
            place, taken = here[n], chances[n] < sure
            if attempt > 0 and taken:
                changed += weight[place] != values[n]
                weight[place] = values[n]
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
    """Sample the weights of a block; returns how many changed. Is S not flat, all exponentials are needed."""
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
        t = numba.get_thread_id()  # type: ignore[attr-defined]
        mine = Work(work.integers[t], work.floats[t], work.bytes[t], work.words[t])
        draw = Draw(b * BLOCK, stream, number, c, np.float32(bound), ceiling, spread, spec, tables, own, mine)
        end = min((b + 1) * BLOCK, len(position))
        counts[b] = sample_block(position[b * BLOCK : end], flat < FLAT, draw, weight[b * BLOCK : end])
