"""Proposals of draws on the CPU: a small table a connection, which makes draws cheap (`cpu_sample`).

The options of a connection are read in parts of four, one Philox block each; part p belongs to group
p % groups. A table says how often each group is proposed: in proportion to its longest part, where an option
is as long as exp(A (W - top)) at the smallest |A| of a cell. A longer table than need be costs attempts, not
exactness. It depends on the reel and on A rounded to a cell, on nothing that was before: whether it was kept
or made anew, draws are the same.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from slotkit.latent.engines.cpu_choose import (
    BLOCK,
    Integers,
    Singles,
    Tables,
    Words,
    symmetric_uniform,
    words_of,
)
from slotkit.latent.engines.cpu_compiling import compiled, inlined
from slotkit.reel import OPTIONS, ReelSpec

Bytes: TypeAlias = npt.NDArray[np.uint8]

# Options of a part, and the largest number of groups.
PART, GROUPS = 4, 32
# A cell of |A| bound + 1/2 is an eighth of that number wide if CELL_BITS of its bits are left out,
# and twice as wide with each bit more. Wide cells cost attempts; narrow ones are left sooner, and a table
# of many options takes long to make.
CELL_BITS, NO_CELL = 20, -1
# Parts whose lengths are computed together, or those of one connection where it has more.
PAIRS = 2048

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


@inlined
def parts_of(spec: ReelSpec) -> int:
    """How many parts the options of a connection have."""
    return 2 * (-(-spec.k // (2 * PART))) if spec.symmetric else -(-spec.k // PART)


@compiled
def cell_bits(spec: ReelSpec) -> int:
    """How many bits of |A| bound + 1/2 the number of its cell leaves out: on LeNet, the cheapest number."""
    parts, bits = parts_of(spec), CELL_BITS
    while parts > 4 and bits < 22:
        parts, bits = parts // 4, bits + 1
    return bits


def groups_of(parts: int) -> int:
    """How many groups so many parts are in."""
    return -(-parts // -(-parts // GROUPS))


def kept_bytes(k: int) -> int:
    """What is kept for the draws of a connection with K independent options, in bytes."""
    return 12 + groups_of(-(-k // PART))


def new_proposals(n: int, spec: ReelSpec) -> Proposals:
    """Empty ones, for n connections."""
    groups = groups_of(parts_of(spec))
    cells, floats = np.full(n, NO_CELL, np.int32), np.zeros((2, n), np.float32)
    return Proposals(np.zeros((groups, n), np.uint8), cells, floats[0], floats[1])


@inlined
def power(x: np.float32) -> np.float32:
    """2**x for x <= 0, in float32; 2**-126 below that. A loop of it compiles to vector instructions."""
    value = max(x, UNDERFLOW)
    n = np.rint(value)
    r = value - n
    scale = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    product: np.float32 = (ONE + r * (T1 + r * (T2 + r * (T3 + r * (T4 + r * (T5 + r * T6)))))) * scale
    return product


@inlined
def option_of(part: int, lane: int, symmetric: bool) -> int:
    """The number of an option. Of options in pairs +v, -v a part has four of one sign."""
    return 8 * (part >> 1) + 2 * lane + (part & 1) if symmetric else PART * part + lane


@inlined
def has_option(part: int, lane: int, spec: ReelSpec) -> bool:
    """Whether there is such an option: the last parts may have fewer than four."""
    return option_of(part, lane, spec.symmetric) < spec.k


@inlined
def has_gaps(spec: ReelSpec) -> bool:
    """Whether a part has fewer than four."""
    return spec.k % (2 * PART if spec.symmetric else PART) > 0


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
def fill_gaps(parts: Integers, slopes: Singles, spec: ReelSpec, w: Singles) -> None:
    """Put an option of no length into w (4, n) where a part has fewer than four."""
    if not has_gaps(spec):
        return
    for lane in range(PART):
        for n in range(len(parts)):
            if not has_option(parts[n], lane, spec):
                w[lane, n] = BEYOND if slopes[n] < 0 else -BEYOND


@compiled
def lengths(m: int, edges: Singles, owners: Integers, draw: Draw, w: Singles, tops: Singles) -> Singles:
    """How long each part of m connections is at the A (m,) times log2(e) of `edges`.

    Pair p m + n is part p of connection n. `owners` (2, pairs), `w` (6, pairs) and `tops` (m,) are
    overwritten; `tops` with the option that has the largest A W. Returns (pairs,), a row of `w`.
    """
    spec, parts, n_pairs = draw.spec, owners[1], len(owners[0])
    for p in range(n_pairs // m):
        for n in range(m):
            owners[0, p * m + n], parts[p * m + n], w[4, p * m + n] = owners[0, n], p, edges[n]
    read_parts(owners[0], parts, draw, w)
    fill_gaps(parts, w[4], spec, w)
    w0, w1, w2, w3, slopes = w[0], w[1], w[2], w[3], w[4]
    highest: Singles = w[5]
    for q in range(n_pairs):
        sign = np.float32(-1) if slopes[q] < 0 else ONE
        highest[q] = max(sign * w0[q], sign * w1[q], sign * w2[q], sign * w3[q])
    for p in range(1, n_pairs // m):
        for n in range(m):
            highest[n] = max(highest[n], highest[p * m + n])
    for n in range(m):
        tops[n] = -highest[n] if edges[n] < 0 else highest[n]
    for p in range(n_pairs // m):
        for n in range(m):
            highest[p * m + n] = tops[n]
    for q in range(n_pairs):
        slope, top = slopes[q], highest[q]
        e0, e1 = power(slope * (w0[q] - top)), power(slope * (w1[q] - top))
        e2, e3 = power(slope * (w2[q] - top)), power(slope * (w3[q] - top))
        highest[q] = (e0 + e1) + (e2 + e3)
    return highest


@compiled
def tabulate(stale: Integers, cells: Integers, draw: Draw, owners: Integers, w: Singles) -> None:
    """Make the proposals of m connections, numbers in the block, for their new cells.

    owners (2, pairs) and w (9, pairs) are overwritten; there are m pairs for each part.
    """
    spec, own, m, bits = draw.spec, draw.own, len(stale), np.int32(cell_bits(draw.spec))
    n_groups, n_pairs, edges, units, tops = len(own.ends), len(owners[0]), w[6], w[7], w[8]
    for n in range(m):
        owners[0, n] = ((draw.first + stale[n]) // spec.stride) % spec.owners
        # The A of the smallest size in the cell: there every exp(A (W - top)) is largest.
        size = np.int32((cells[n] >> 1) << bits).view(np.float32) - A_HALF
        edges[n], units[n] = (-size if cells[n] & 1 else size) / draw.bound * LOG2E, NOTHING
    lasting = lengths(m, edges, owners, draw, w, tops)
    for p in range(n_groups, n_pairs // m):
        for n in range(m):
            q = (p % n_groups) * m + n
            lasting[q] = max(lasting[q], lasting[p * m + n])
    for g in range(n_groups):
        for n in range(m):
            units[n] += lasting[g * m + n]
    # Each group is rounded up, by less than one, so that the last end is 255 at most.
    for n in range(m):
        unit = units[n] * (np.float32(1.0001) / np.float32(255 - n_groups))
        i, end = draw.first + stale[n], NOTHING
        for g in range(n_groups):
            end += np.ceil(lasting[g * m + n] / unit)
            own.ends[g, i] = np.uint8(end)
        own.cells[i], own.top[i], own.unit[i] = cells[n], tops[n], unit


@compiled
def propose_evenly(i: int, cell: int, draw: Draw) -> None:
    """The proposals of connection i if A may be 0, where all options are equally long: no option is read."""
    spec, own, n_groups = draw.spec, draw.own, len(draw.own.ends)
    share, largest = 255 // n_groups, min(spec.k // 2 if spec.symmetric else spec.k, PART)
    for g in range(n_groups):
        own.ends[g, i] = np.uint8(share * (g + 1))
    top = -draw.bound if cell & 1 else draw.bound
    own.cells[i], own.top[i], own.unit[i] = cell, top, np.float32(largest * 1.0001) / np.float32(share)


@compiled
def refresh(a: Singles, draw: Draw) -> None:
    """Make the proposals anew where A has gone to another cell."""
    stale, cells, kept = (
        draw.work.integers[0],
        draw.work.integers[1],
        draw.own.cells[draw.first : draw.first + len(a)],
    )
    bits = np.int32(cell_bits(draw.spec))
    around_0 = np.float32(A_HALF).view(np.int32) >> bits
    for n in range(len(a)):
        size = np.float32(min(abs(a[n]) * draw.bound, LARGEST) + A_HALF)
        cells[n] = np.int32(np.int32(size.view(np.int32) >> bits) << np.int32(1)) | np.int32(a[n] < 0)
    m = 0
    for n in range(len(a)):
        stale[m] = n
        m += 1 if cells[n] != kept[n] else 0
    n_stale, m = m, 0
    for o in range(n_stale):
        n = stale[o]
        stale[m], cells[m] = n, cells[n]
        if cells[m] >> 1 == around_0:
            propose_evenly(draw.first + n, cells[m], draw)
        else:
            m += 1
    if m == 0:
        return
    n_parts = parts_of(draw.spec)
    most = max(PAIRS // n_parts, 1)
    owners, w = np.empty(2 * most * n_parts, np.int32), np.empty(9 * most * n_parts, np.float32)
    for o in range(0, m, most):
        now = min(most, m - o)
        pairs = now * n_parts
        tabulate(
            stale[o : o + now],
            cells[o : o + now],
            draw,
            owners[: 2 * pairs].reshape(2, pairs),
            w[: 9 * pairs].reshape(9, pairs),
        )
