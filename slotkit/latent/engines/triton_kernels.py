"""The kernels of the CUDA engine: one launch steps, or samples, all tensors of a call.

They repeat `slotkit.reel` and `slotkit.latent.line` for a device that can't call PyTorch. The bits are those
of the eager engine (but for float32 quotients under Adam, which the device rounds otherwise); products and
sums must not be fused, or a score near a tie would be another one.

A launch gets a table of int64, a row a tensor: addresses, sizes, keys, and the bits of its float64 numbers
(`Column`). A program has one block of BLOCK connections of one tensor, as GROUPS rows of GROUP connections.
It finds its tensor by its number: the blocks of all tensors are counted through.
"""

from __future__ import annotations

from enum import IntEnum
from types import FunctionType
from typing import Any

import triton
import triton.language as tl

from slotkit.latent import line
from slotkit.latent.line import AdamStep, Hyperparameters, LineColumn
from slotkit.reel import OPTIONS, SCORES


class Column(IntEnum):
    """What a row of the table holds. From SCALE on these are bits of float64 numbers."""

    FIRST = 0  # number of its first block
    SIZE = 1
    WEIGHT = 2
    LATENT = 3
    VELOCITY = 4  # B; under Adam the mean of the gradient
    SQUARE = 5
    LOWER = 6
    UPPER = 7
    GRADIENT = 8  # 0: A has its new value already
    COUNTS = 9
    CONNECTIONS = 10  # 0: flips are counted only
    OPTIONS = 11
    OPTION_TABLE = 12
    SCORE_TABLE = 13
    STRIDE = 14
    OWNERS = 15
    KEY = 16
    OPTION_KEY = 17
    CHOOSES = 18
    SCALE = 19
    C = 20
    SIGN = 21
    BOUND = 22
    SCORE_SCALE = 23
    RULE = 24  # and the following: the numbers of `Move.rule`
    # Addresses of what is kept on the device: `Move.on_device`.
    NUMBERS = 32
    SKIP = 33
    RATE = 34  # 0: that of the rule
    DRAW = 35


WIDTH = tl.constexpr(36)
FIRST, SIZE, STRIDE, OWNERS = (
    tl.constexpr(int(Column[name])) for name in ("FIRST", "SIZE", "STRIDE", "OWNERS")
)
WEIGHT, LATENT, VELOCITY, SQUARE = (
    tl.constexpr(int(Column[name])) for name in ("WEIGHT", "LATENT", "VELOCITY", "SQUARE")
)
LOWER, UPPER, GRADIENT, COUNTS = (
    tl.constexpr(int(Column[name])) for name in ("LOWER", "UPPER", "GRADIENT", "COUNTS")
)
CONNECTIONS, CHOICES, OPTION_TABLE, SCORE_TABLE = (
    tl.constexpr(int(Column[name])) for name in ("CONNECTIONS", "OPTIONS", "OPTION_TABLE", "SCORE_TABLE")
)
KEY, OPTION_KEY, CHOOSES = (tl.constexpr(int(Column[name])) for name in ("KEY", "OPTION_KEY", "CHOOSES"))
SCALE, C, SIGN = (tl.constexpr(int(Column[name])) for name in ("SCALE", "C", "SIGN"))
BOUND, SCORE_SCALE, RULE = (tl.constexpr(int(Column[name])) for name in ("BOUND", "SCORE_SCALE", "RULE"))
NUMBERS, SKIP, RATE, DRAW = (tl.constexpr(int(Column[name])) for name in ("NUMBERS", "SKIP", "RATE", "DRAW"))
KEPT_C, KEPT_E, KEPT_STEPS, KEPT_MOVING, KEPT_T = (
    tl.constexpr(int(LineColumn[name])) for name in ("C", "E", "STEPS", "MOVING", "T")
)
KEPT_SCALE, KEPT_SIGN, KEPT_TURNED, KEPT_SKIPPED, KEPT_RULE = (
    tl.constexpr(int(LineColumn[name])) for name in ("SCALE", "SIGN", "TURNED", "SKIPPED", "RULE")
)
OPTION_STREAM, SCORE_STREAM = tl.constexpr(OPTIONS), tl.constexpr(SCORES)


def kernel_of(formula: Any) -> Any:
    """A formula that is written for tensors, for kernels. Triton has to find itself among its globals, and a
    type of its own where the formula says Any.
    """
    names = formula.__globals__ | {"tl": tl, "Any": tl.tensor}
    return triton.jit(FunctionType(formula.__code__, names, formula.__name__))


advance, advance_by_adam = kernel_of(line.advance), kernel_of(line.advance_by_adam)


@triton.jit
def number(row, COLUMN: tl.constexpr):
    """A float64 of the table."""
    return tl.load(row + COLUMN).to(tl.float64, bitcast=True)


@triton.jit
def place(row, COLUMN: tl.constexpr, KIND: tl.constexpr):
    """An address of the table, of numbers of this kind."""
    return tl.load(row + COLUMN).to(tl.pointer_type(KIND))


@triton.jit
def told(row, COLUMN: tl.constexpr, PLACE: tl.constexpr, ON_DEVICE: tl.constexpr):
    """A float64 of the table, or what is kept on the device in its stead."""
    return tl.load(place(row, NUMBERS, tl.float64) + PLACE) if ON_DEVICE else number(row, COLUMN)


@triton.jit
def row_of(table, TENSORS: tl.constexpr):
    """The row of this program's tensor. TENSORS is a power of two; rows that are too many start nowhere."""
    firsts = tl.load(table + tl.arange(0, TENSORS) * WIDTH + FIRST)
    return table + (tl.sum((firsts <= tl.program_id(0)).to(tl.int32)) - 1) * WIDTH


@triton.jit
def root(values):
    """The square root, rounded as torch rounds it."""
    return tl.sqrt(values.to(tl.float64)).to(values.dtype)


@triton.jit
def words(index, third, stream, key, COUNT: tl.constexpr):
    """The first COUNT words (a multiple of four) of owners or connections: index int64 (m,) -> (m, COUNT)."""
    four = tl.arange(0, COUNT // 4)[None, :].to(tl.uint32)
    low = (index & 0xFFFFFFFF).to(tl.uint32)[:, None] + four * 0
    high = (index >> 32).to(tl.uint32)[:, None] + four * 0
    x0, x1, x2, x3 = tl.philox(key, low, high, low * 0 + four + third, low * 0 + stream)
    return tl.reshape(tl.join(tl.join(x0, x2), tl.join(x1, x3)), [index.shape[0], COUNT])


@triton.jit
def symmetric_uniform(word):
    """`slotkit.philox.symmetric_uniform`."""
    odd = (word >> 8).to(tl.int32) * 2 + (1 - 16777216)
    return odd.to(tl.float32) * 5.9604644775390625e-08


@triton.jit
def unit_uniform(word):
    """`slotkit.philox.unit_uniform`."""
    return ((word >> 9).to(tl.int32) * 2 + 1).to(tl.float32) * 5.9604644775390625e-08


@triton.jit
def reel(row, i, live, K: tl.constexpr, WIDE: tl.constexpr, SYMMETRIC: tl.constexpr, STORED: tl.constexpr):
    """Options and initial scores of connections i (m,): float32 (m, WIDE), of which K columns count."""
    owner = i // tl.load(row + STRIDE) % tl.load(row + OWNERS)
    j = tl.arange(0, WIDE)[None, :]
    if STORED:
        kept = live[:, None] & (j < K)
        options = tl.load(place(row, OPTION_TABLE, tl.float32) + owner[:, None] * K + j, mask=kept, other=0.0)
        scores = tl.load(place(row, SCORE_TABLE, tl.float32) + i[:, None] * K + j, mask=kept, other=0.0)
    else:
        bound = number(row, BOUND).to(tl.float32)
        key = tl.load(row + OPTION_KEY)
        if SYMMETRIC:
            half = symmetric_uniform(words(owner, 0, OPTION_STREAM, key, WIDE // 2)) * bound
            options = tl.reshape(tl.join(half, -half), [i.shape[0], WIDE])
        else:
            options = symmetric_uniform(words(owner, 0, OPTION_STREAM, key, WIDE)) * bound
        scores = unit_uniform(words(i, 0, SCORE_STREAM, tl.load(row + KEY), WIDE)) * bound
        scores = scores * number(row, SCORE_SCALE).to(tl.float32)
    return options, scores


@triton.jit
def reselect(options, initial, latent, c, sign, K: tl.constexpr):
    """`slotkit.latent.line.reselect`: options, initial (m, WIDE), latent (m,) -> selected, value, bounds."""
    j = tl.arange(0, options.shape[1])[None, :]
    w, s = options.to(tl.float64), initial.to(tl.float64)
    scores = c * s + latent.to(tl.float64)[:, None] * w
    top = tl.max(tl.where(j < K, scores, -float("inf")), axis=1)
    selected = tl.min(tl.where((scores == top[:, None]) & (j < K), j, K), axis=1)
    # No score is a number: some option, and no memory that isn't ours.
    selected = tl.where(selected < K, selected, 0)
    taken = j == selected[:, None]
    value = tl.sum(tl.where(taken, options, 0.0), axis=1)
    score = sign * tl.sum(tl.where(taken, s, 0.0), axis=1)
    gap = w - value.to(tl.float64)[:, None]
    crossing = (score[:, None] - sign * s) / tl.where(gap == 0, 1.0, gap)
    upper = tl.min(tl.where((j < K) & (gap > 0), crossing, float("inf")), axis=1)
    lower = tl.max(tl.where((j < K) & (gap < 0), crossing, -float("inf")), axis=1)
    return selected, value, lower, upper


@triton.jit
def rewrite(row, i, value, selected, live, start, flips, KIND: tl.constexpr):
    """Write the values (m,) where they are other ones. If flips are recorded, name these after `flips`
    earlier ones. Returns how many there are with these.
    """
    weight = place(row, WEIGHT, KIND)
    old, new = tl.load(weight + i, mask=live), value.to(KIND)
    flipped = live & (old != new)
    tl.store(weight + i, new, mask=flipped)
    one = flipped.to(tl.int32)
    if tl.load(row + CONNECTIONS) != 0:
        at = start + flips + tl.cumsum(one, axis=0) - one
        tl.store(place(row, CONNECTIONS, tl.int32) + at, i.to(tl.int32), mask=flipped)
        tl.store(place(row, CHOICES, tl.int32) + at, selected, mask=flipped)
    return flips + tl.sum(one)


@triton.jit
def rule(row, N: tl.constexpr, ON_DEVICE: tl.constexpr):
    """A number of the step's rule."""
    return told(row, RULE + N, KEPT_RULE + N, ON_DEVICE)


@triton.jit
def move(row, i, live, STATE: tl.constexpr, ADAM: tl.constexpr, ON_DEVICE: tl.constexpr):
    """A (GROUPS, GROUP) after the step, written with B or the moments."""
    latent = place(row, LATENT, STATE) + i
    position = tl.load(latent, mask=live, other=0.0)
    if tl.load(row + GRADIENT) != 0:
        gradient = tl.load(place(row, GRADIENT, STATE) + i, mask=live, other=0.0)
        r0, r1 = rule(row, 0, ON_DEVICE).to(STATE), rule(row, 1, ON_DEVICE).to(STATE)
        r2, r3 = rule(row, 2, ON_DEVICE).to(STATE), rule(row, 3, ON_DEVICE)
        r4, r5 = rule(row, 4, ON_DEVICE).to(STATE), rule(row, 5, ON_DEVICE).to(STATE)
        # Without momentum B stays 0, and no memory is spent on it.
        pace, kept = place(row, VELOCITY, STATE) + i, live
        if not ADAM:
            kept = live & (tl.full(live.shape, r1, STATE) != 0)
        before = tl.load(pace, mask=kept, other=0.0)
        if ADAM:
            r6, r7 = rule(row, 6, ON_DEVICE).to(STATE), rule(row, 7, ON_DEVICE).to(STATE)
            adam = AdamStep(r0, r1, r2, r3.to(STATE), r4, r5, r6, r7)
            squares = place(row, SQUARE, STATE) + i
            square = tl.load(squares, mask=live, other=0.0)
            position, after, square = advance_by_adam(position, before, square, gradient, adam, root)
            tl.store(squares, square, mask=live)
        else:
            h = Hyperparameters(r0, r1, r2, r3 != 0, r4, r5)
            position, after = advance(position, before, gradient, h)
        tl.store(latent, position, mask=live)
        tl.store(pace, after, mask=kept)
    return position


@triton.jit
def begin(table, ADAM: tl.constexpr):
    """The numbers that are kept of each tensor, one step later: `Line.after` and, under Adam, `adam_step`.

    One program a tensor. Those of `step` read what it writes.
    """
    row = table + tl.program_id(0) * WIDTH
    kept = place(row, NUMBERS, tl.float64)
    skipped = tl.load(place(row, SKIP, tl.float32)) != 0
    lr = number(row, RULE)
    if tl.load(row + RATE) != 0:
        lr = tl.load(place(row, RATE, tl.float64))
    r1, r2, r3 = number(row, RULE + 1), number(row, RULE + 2), number(row, RULE + 3)
    r4, r5 = number(row, RULE + 4), number(row, RULE + 5)
    c, e, begun = tl.load(kept + KEPT_C), tl.load(kept + KEPT_E), tl.load(kept + KEPT_MOVING)
    after, speed = c, e
    if ADAM:
        t = tl.load(kept + KEPT_T) + 1
        tl.store(kept + KEPT_T, tl.where(skipped, t - 1, t))
        # beta to the power of t; a beta of 0 has a logarithm of minus infinity.
        first, second = tl.exp(t * tl.log(r3)), tl.exp(t * tl.log(r5))
        tl.store(kept + KEPT_RULE, lr / (1 - first))
        tl.store(kept + KEPT_RULE + 1, 1 - lr * r1)
        tl.store(kept + KEPT_RULE + 2, r2)
        tl.store(kept + KEPT_RULE + 3, r5)
        tl.store(kept + KEPT_RULE + 4, r4)
        tl.store(kept + KEPT_RULE + 5, tl.sqrt(1 - second))
        tl.store(kept + KEPT_RULE + 6, number(row, RULE + 6))
        tl.store(kept + KEPT_RULE + 7, number(row, RULE + 7))
    else:
        intake = tl.where(begun != 0, r2, 1.0)
        h = Hyperparameters(lr, r1, intake, r3 != 0, r4, r5)
        after, speed = advance(c, e, c * 0, h)
        begun = tl.where(skipped | (r1 == 0), begun, 1.0)
        tl.store(kept + KEPT_RULE, lr)
        tl.store(kept + KEPT_RULE + 1, r1)
        tl.store(kept + KEPT_RULE + 2, intake)
        tl.store(kept + KEPT_RULE + 3, r3)
        tl.store(kept + KEPT_RULE + 4, r4)
        tl.store(kept + KEPT_RULE + 5, r5)
    after, speed = tl.where(skipped, c, after), tl.where(skipped, e, speed)
    size = tl.abs(after)
    tl.store(kept + KEPT_C, after)
    tl.store(kept + KEPT_E, speed)
    tl.store(kept + KEPT_STEPS, tl.load(kept + KEPT_STEPS) + tl.where(skipped, 0.0, 1.0))
    tl.store(kept + KEPT_MOVING, begun)
    tl.store(kept + KEPT_SCALE, tl.where(size > 1e-300, 1 / tl.where(size > 1e-300, size, 1.0), float("inf")))
    tl.store(kept + KEPT_SIGN, side(after))
    tl.store(kept + KEPT_TURNED, tl.where(side(after) != side(c), 1.0, 0.0))
    tl.store(kept + KEPT_SKIPPED, tl.where(skipped, 1.0, 0.0))


@triton.jit
def side(c):
    """`Line.sign`."""
    return tl.where(c > 0, 1.0, tl.where(c < 0, -1.0, 0.0)).to(tl.float64)


@triton.jit
def step(
    table,
    K: tl.constexpr,
    WIDE: tl.constexpr,
    SYMMETRIC: tl.constexpr,
    STORED: tl.constexpr,
    KIND: tl.constexpr,
    STATE: tl.constexpr,
    ADAM: tl.constexpr,
    ON_DEVICE: tl.constexpr,
    TENSORS: tl.constexpr,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """`Engine.step`, with ON_DEVICE after `begin`.

    WIDE is K rounded up to a power of two, KIND the weight's dtype, STATE that of A.
    """
    GROUPS: tl.constexpr = BLOCK // GROUP
    row = row_of(table, TENSORS)
    block = tl.program_id(0) - tl.load(row + FIRST)
    start, lane = block * BLOCK, tl.arange(0, GROUP)
    group = tl.arange(0, GROUPS)
    i = start + group[:, None] * GROUP + lane[None, :]
    live = i < tl.load(row + SIZE)
    if ON_DEVICE:
        live = live & (tl.full(live.shape, told(row, 0, KEPT_SKIPPED, ON_DEVICE), tl.float64) == 0)
    position = move(row, i, live, STATE, ADAM, ON_DEVICE)
    if tl.load(row + CHOOSES) != 0:
        lower, upper = place(row, LOWER, STATE), place(row, UPPER, STATE)
        u = position * told(row, SCALE, KEPT_SCALE, ON_DEVICE).to(STATE)
        low, high = tl.load(lower + i, mask=live, other=0.0), tl.load(upper + i, mask=live, other=0.0)
        inside = (u >= low) & (u <= high)
        if ON_DEVICE:
            # When c has changed its sign, every interval belongs to the other sign.
            inside = inside & (tl.full(live.shape, told(row, 0, KEPT_TURNED, ON_DEVICE), tl.float64) == 0)
        # A u that is not a number counts as outside.
        outside = (live & (inside == 0)).to(tl.int32)
        waiting = tl.sum(outside, axis=1) > 0
        c, sign = told(row, C, KEPT_C, ON_DEVICE), told(row, SIGN, KEPT_SIGN, ON_DEVICE)
        flips = 0
        # Hardly any group has one: those that have are taken from the tile one by one.
        g = tl.min(tl.where(waiting, group, GROUPS))
        while g < GROUPS:
            here = group[:, None] == g
            lost = tl.sum(tl.where(here, outside, 0), axis=0) > 0
            latent = tl.sum(tl.where(here, position, 0.0), axis=0)
            at = start + g * GROUP + lane
            options, initial = reel(row, at, lost, K, WIDE, SYMMETRIC, STORED)
            selected, value, below, above = reselect(options, initial, latent, c, sign, K)
            tl.store(lower + at, below.to(STATE), mask=lost)
            tl.store(upper + at, above.to(STATE), mask=lost)
            flips = rewrite(row, at, value, selected, lost, start, flips, KIND)
            g = tl.min(tl.where(waiting & (group > g), group, GROUPS))
        tl.store(place(row, COUNTS, tl.int64) + block, flips)


@triton.jit
def sample(
    table,
    stream,
    draw,
    K: tl.constexpr,
    WIDE: tl.constexpr,
    SYMMETRIC: tl.constexpr,
    STORED: tl.constexpr,
    KIND: tl.constexpr,
    STATE: tl.constexpr,
    ON_DEVICE: tl.constexpr,
    TENSORS: tl.constexpr,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """`Engine.sample`, by the inverse CDF of `slotkit.selection.sample`, with the same uniform numbers."""
    row = row_of(table, TENSORS)
    block = tl.program_id(0) - tl.load(row + FIRST)
    size, c, key = tl.load(row + SIZE), told(row, C, KEPT_C, ON_DEVICE), tl.load(row + KEY)
    if tl.load(row + DRAW) != 0:
        draw = tl.load(place(row, DRAW, tl.int64)).to(tl.int32)
    j = tl.arange(0, WIDE)[None, :]
    flips = 0
    for g in range(0, tl.cdiv(tl.minimum(size - block * BLOCK, BLOCK), GROUP)):
        i = block * BLOCK + g * GROUP + tl.arange(0, GROUP)
        live = i < size
        options, initial = reel(row, i, live, K, WIDE, SYMMETRIC, STORED)
        latent = tl.load(place(row, LATENT, STATE) + i, mask=live, other=0.0).to(tl.float64)
        scores = c * initial.to(tl.float64) + latent[:, None] * options.to(tl.float64)
        scores = tl.where(j < K, scores, -float("inf"))
        mass = tl.exp(scores - tl.max(scores, axis=1)[:, None])
        # Four neighbours share the words of one counter.
        four = tl.arange(0, 4)[None, :]
        word = tl.where(four == (i % 4).to(tl.int32)[:, None], words(i // 4, draw, stream, key, 4), 0)
        uniform = unit_uniform(tl.sum(word, axis=1).to(tl.uint32)).to(tl.float64)
        reached = tl.cumsum(mass, axis=1) >= (uniform * tl.sum(mass, axis=1))[:, None]
        selected = tl.min(tl.where(reached & (mass > 0), j, K), axis=1)
        selected = tl.where(selected < K, selected, 0)
        value = tl.sum(tl.where(j == selected[:, None], options, 0.0), axis=1)
        flips = rewrite(row, i, value, selected, live, block * BLOCK, flips, KIND)
    tl.store(place(row, COUNTS, tl.int64) + block, flips)
