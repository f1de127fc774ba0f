"""The step on the CPU: one plain loop over a tensor, compiled and run by several threads.

It repeats `slotkit.reel` and `slotkit.latent.line` for loops that can't call PyTorch. The bits are the same
(but for Adam's square root, which torch.sqrt rounds otherwise); tests/latent/mutants.py checks it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numba
import numpy as np
import numpy.typing as npt

from slotkit.latent import line
from slotkit.latent.engines.cpu_compiling import compiled, inlined, parallel
from slotkit.latent.line import AdamStep, Hyperparameters
from slotkit.philox_cpu import HALF, WORD, philox_one
from slotkit.reel import OPTIONS, SCORES, ReelSpec

Floats: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Singles: TypeAlias = npt.NDArray[np.float32]
Doubles: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int32] | npt.NDArray[np.int64]
Words: TypeAlias = tuple[np.uint64, np.uint64, np.uint64, np.uint64]
# Options (owners, K) and initial scores (n, K); of no rows where they are recomputed.
Tables: TypeAlias = tuple[Singles, Singles]

# Connections that a thread takes at once, and connections whose intervals are tested together first.
BLOCK, GROUP = 4096, 64
# Scores that are compared together first.
FEW = 32

# The smallest normal float32 and float64.
SMALLEST_SINGLE, SMALLEST_DOUBLE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float64).tiny)

advance_one, advance_one_by_adam = inlined(line.advance), inlined(line.advance_by_adam)


def typed(spec: ReelSpec) -> ReelSpec:
    """The spec in the types that the loops are compiled for."""
    names = ("key_0", "key_1", "option_key_0", "option_key_1")
    keys: dict[str, Any] = {name: np.uint64(getattr(spec, name)) for name in names}
    sizes: dict[str, Any] = {"bound": np.float32(spec.bound), "score_scale": np.float32(spec.score_scale)}
    return spec._replace(**keys, **sizes)


@inlined
def symmetric_uniform(word: np.uint64) -> np.float32:
    """`slotkit.philox.symmetric_uniform` of one word."""
    odd = np.int32(word >> np.uint64(8)) * np.int32(2) + np.int32(1 - 2**24)
    return np.float32(odd) * np.float32(2.0**-24)


@inlined
def unit_uniform(word: np.uint64) -> np.float32:
    """`slotkit.philox.unit_uniform` of one word."""
    return np.float32(np.int32(word >> np.uint64(9)) * np.int32(2) + np.int32(1)) * np.float32(2.0**-24)


@inlined
def words_of(i: int, block: int, stream: int, spec: ReelSpec) -> Words:
    """The four words of a block of an owner (options) or a connection (scores)."""
    low, high = np.uint64(i) & WORD, np.uint64(i) >> HALF
    key_0, key_1 = spec.key_0, spec.key_1
    if stream == OPTIONS:
        key_0, key_1 = spec.option_key_0, spec.option_key_1
    return philox_one(low, high, np.uint64(block), np.uint64(stream), key_0, key_1)  # type: ignore[no-any-return]


@compiled
def fill_options(owner: int, spec: ReelSpec, w: Singles) -> None:
    """The K options of an owner; w is (K + 7,), because blocks are written whole."""
    bound = spec.bound
    if spec.symmetric:
        for b in range((spec.k // 2 + 3) // 4):
            x = words_of(owner, b, OPTIONS, spec)
            w[8 * b], w[8 * b + 2] = symmetric_uniform(x[0]) * bound, symmetric_uniform(x[1]) * bound
            w[8 * b + 4], w[8 * b + 6] = symmetric_uniform(x[2]) * bound, symmetric_uniform(x[3]) * bound
            for j in range(0, 8, 2):
                w[8 * b + j + 1] = -w[8 * b + j]
    else:
        for b in range((spec.k + 3) // 4):
            x = words_of(owner, b, OPTIONS, spec)
            w[4 * b], w[4 * b + 1] = symmetric_uniform(x[0]) * bound, symmetric_uniform(x[1]) * bound
            w[4 * b + 2], w[4 * b + 3] = symmetric_uniform(x[2]) * bound, symmetric_uniform(x[3]) * bound


@compiled
def fill_scores(i: int, spec: ReelSpec, s: Singles) -> None:
    """The K initial scores of connection i; s is (K + 7,)."""
    bound, scale = spec.bound, spec.score_scale
    for b in range((spec.k + 3) // 4):
        x = words_of(i, b, SCORES, spec)
        s[4 * b], s[4 * b + 1] = unit_uniform(x[0]) * bound * scale, unit_uniform(x[1]) * bound * scale
        s[4 * b + 2], s[4 * b + 3] = unit_uniform(x[2]) * bound * scale, unit_uniform(x[3]) * bound * scale


@compiled
def fill(i: int, spec: ReelSpec, tables: Tables, w: Singles, s: Singles) -> None:
    """The K options and initial scores of connection i, stored or recomputed."""
    owner = (i // spec.stride) % spec.owners
    if len(tables[1]):
        w[: spec.k], s[: spec.k] = tables[0][owner], tables[1][i]
    else:
        fill_options(owner, spec, w)
        fill_scores(i, spec, s)


@inlined
def any_above(values: Doubles, level: float) -> bool:
    """Whether one of the values is larger. No branch, so that it compiles to vector instructions."""
    found = False
    for j in range(len(values)):
        found |= values[j] > level
    return found


@compiled
def highest(values: Doubles) -> tuple[int, float]:
    """Index and value of the highest, the first of equals; (0, -inf) if none is a number above -inf."""
    best, top = 0, -math.inf
    for start in range(0, len(values), FEW):
        group = values[start : start + FEW]
        if any_above(group, top):
            for j in range(len(group)):
                if group[j] > top:
                    best, top = start + j, group[j]
    return best, top


@compiled
def choose(a: float, c: float, w: Singles, s: Singles, workspace: Doubles) -> int:
    """Greedy selection: the lowest index of the highest score; 0 if no score is a number.

    w and s (k,) or longer. `workspace` (2, k) is overwritten.
    """
    scores = workspace[0]
    for j in range(len(scores)):
        scores[j] = c * np.float64(s[j]) + a * np.float64(w[j])
    return highest(scores)[0]


@compiled
def bounds(selected: int, sign: float, w: Singles, s: Singles, workspace: Doubles) -> tuple[float, float]:
    """`slotkit.latent.line.interval` for one connection. Arrays as for `choose`."""
    value, score = np.float64(w[selected]), sign * np.float64(s[selected])
    below, above = workspace[0], workspace[1]
    for j in range(len(below)):
        gap = np.float64(w[j]) - value
        crossing = (score - sign * np.float64(s[j])) / gap
        below[j] = crossing if gap < 0 else -math.inf
        above[j] = -crossing if gap > 0 else -math.inf
    # Adding 0.0 turns -0.0 into 0.0, as in `interval`.
    return highest(below)[1] + 0.0, 0.0 - highest(above)[1]


@compiled
def advance_all(position: Floats, velocity: Floats, square: Floats, gradient: Floats, rule: Floats) -> None:
    """One step of A (m,), and of B by SGD; or of A and its moments by Adam, if `square` is (m,)."""
    # The velocity of a dead unit shrinks until it is denormal, where processors take a hundred cycles for a
    # multiplication. It is then too small to change any sum, so it becomes 0. Moments do the same.
    kind = position.dtype.type
    least, nothing = kind(SMALLEST_DOUBLE if position.itemsize == 8 else SMALLEST_SINGLE), kind(0)
    if len(square):
        adam = AdamStep(rule[0], rule[1], rule[2], rule[3], rule[4], rule[5], rule[6], rule[7])
        for i in range(len(position)):
            position[i], m, v = advance_one_by_adam(
                position[i], velocity[i], square[i], gradient[i], adam, math.sqrt
            )
            velocity[i] = m if abs(m) >= least else nothing
            square[i] = v if v >= least else nothing
    else:
        h = Hyperparameters(rule[0], rule[1], rule[2], bool(rule[3]), rule[4], rule[5])
        for i in range(len(position)):
            position[i], pace = advance_one(position[i], velocity[i], gradient[i], h)
            velocity[i] = pace if abs(pace) >= least else nothing


@compiled
def any_outside(position: Floats, lower: Floats, upper: Floats, scale: float) -> bool:
    """Whether any u has left its interval. No branch, so that it compiles to vector instructions."""
    found = np.int32(0)
    for i in range(len(position)):
        u = position[i] * scale
        found |= np.int32(not ((u >= lower[i]) & (u <= upper[i])))
    return bool(found)


@compiled
def find_outside(position: Floats, lower: Floats, upper: Floats, scale: float, waiting: Integers) -> int:
    """Write the connections whose u has left its interval to `waiting`. Returns how many."""
    n = 0
    for start in range(0, len(position), GROUP):
        end = min(start + GROUP, len(position))
        if any_outside(position[start:end], lower[start:end], upper[start:end], scale):
            for i in range(start, end):
                u = position[i] * scale
                if not (u >= lower[i] and u <= upper[i]):
                    waiting[n] = i
                    n += 1
    return n


@parallel
def step_tensor(
    weight: Floats,
    position: Floats,
    velocity: Floats,
    square: Floats,
    lower: Floats,
    upper: Floats,
    gradient: Floats,
    rule: Floats,
    scale: float,
    c: float,
    sign: float,
    chooses: bool,
    spec: ReelSpec,
    tables: Tables,
    counts: Integers,
    connections: Integers,
    options: Integers,
) -> None:
    """`Engine.step` for one tensor of n connections. A gradient (0,) stands for none.

    `velocity` is B, and `square` (0,); under Adam they are the means of the gradient and of its square.
    `rule` has the numbers of `Move.rule`, in the dtype of A.
    How many flips each block has goes to `counts` (blocks,). The flips go to `connections` and `options`
    (n,), or nowhere if these are (0,).
    """
    kind: Callable[[float], float] = position.dtype.type  # type: ignore[assignment]
    u_scale = kind(scale)
    for b in numba.prange(len(counts)):
        start, end = b * BLOCK, min((b + 1) * BLOCK, len(position))
        if len(gradient):
            trained = position[start:end], velocity[start:end], square[start:end], gradient[start:end]
            advance_all(*trained, rule)
        if chooses:
            waiting = np.empty(BLOCK, np.int32)
            w, s = np.empty(spec.k + 7, np.float32), np.empty(spec.k + 7, np.float32)
            workspace = np.empty((2, spec.k), np.float64)
            flips = 0
            n = find_outside(position[start:end], lower[start:end], upper[start:end], u_scale, waiting)
            for m in range(n):
                i = start + waiting[m]
                fill(i, spec, tables, w, s)
                j = choose(np.float64(position[i]), c, w, s, workspace)
                lower[i], upper[i] = bounds(j, sign, w, s, workspace)
                if weight[i] != w[j]:
                    weight[i] = w[j]
                    if len(connections):
                        connections[start + flips], options[start + flips] = i, j
                    flips += 1
            counts[b] = flips
