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
    compiled,
    inlined,
    symmetric_uniform,
    words_of,
)
from slotkit.reel import OPTIONS, ReelSpec

Bytes: TypeAlias = npt.NDArray[np.uint8]

# Options of a part, and the largest number of groups.
PART, GROUPS = 4, 32
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
def tabulate(
    stale: Integers, cells: Integers, draw: Draw, owners: Integers, w: Singles, weights: Singles
) -> None:
    """Make the proposals of at most TOGETHER connections, numbers in the block, for their new cells.

    owners (2, n), w (parts, 4, n) and weights (parts + 4, n) are overwritten.
    """
    spec, own, n_stale, n_groups = draw.spec, draw.own, len(stale), len(draw.own.ends)
    n_parts = len(w)
    signs, tops, edges, units = (
        weights[n_parts],
        weights[n_parts + 1],
        weights[n_parts + 2],
        weights[n_parts + 3],
    )
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
            w0[n], w1[n], w2[n], w3[n] = (
                sign * a,
                sign * (b if has1 else a),
                sign * (c if has2 else a),
                sign * (d if has3 else a),
            )
            tops[n] = max(w0[n], w1[n], w2[n], w3[n], tops[n])
    for p in range(n_parts):
        w0, w1, w2, w3 = w[p, 0], w[p, 1], w[p, 2], w[p, 3]
        has1, has2, has3 = has_option(p, 1, spec), has_option(p, 2, spec), has_option(p, 3, spec)
        for n in range(n_stale):
            edge, top = edges[n], tops[n]
            e0, e1 = power(edge * (w0[n] - top)), power(edge * (w1[n] - top))
            e2, e3 = power(edge * (w2[n] - top)), power(edge * (w3[n] - top))
            weights[p, n] = (e0 + (e1 if has1 else NOTHING)) + (
                (e2 if has2 else NOTHING) + (e3 if has3 else NOTHING)
            )
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
    stale, cells, kept = (
        draw.work.integers[0],
        draw.work.integers[1],
        draw.own.cells[draw.first : draw.first + len(a)],
    )
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
