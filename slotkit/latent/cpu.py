"""The latent form compiled for the CPU: parallel, vectorised where nothing flips, K options only at flips.

Rows and staircase stand here a second time because a compiled loop can't call PyTorch; the engine
suite holds them to the first. Everything is elementwise, so threads change no bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from slotkit.latent import latent
from slotkit.latent.cpu_rows import (
    Rule,
    compiled,
    fill_rows,
    inlined,
    option_of,
    parallel,
    rule_of,
    score_of,
    unit_uniform,
)
from slotkit.latent.latent import Hyperparameters
from slotkit.latent.weight import LatentWeight
from slotkit.philox_cpu import HALF, WORD, philox_one
from slotkit.reel import UniformInit, find_init

# Tries of rejection sampling before the exact inverse CDF, and the spread of scores (in nats) up to
# which it is tried at all: at FLAT a try is accepted with probability 1 / 8 or more on average.
ATTEMPTS = 8
FLAT = 4.0

# Draws by rejection have streams of their own; the counter's second word holds the number of the try.
REJECTION = 16
LAST_TRY = np.uint64(0xFFFF << 16)

# Connections handled at once: two vector loops over what fits a core's first cache, then one branch.
BLOCK = 1024

# Up to this many connections one thread is sooner done than two are started.
SERIAL = 1 << 14

KINDS: dict[torch.dtype, Any] = {torch.float32: np.float32, torch.float64: np.float64}


advance_one = inlined(latent.advance)


@compiled
def choose(a: Any, c: Any, w: Any, s: Any) -> Any:
    """Greedy selection: the lowest index of the highest c * S_k + a * W_k."""
    best, selected = -math.inf, 0
    for j in range(len(w)):
        score = c * np.float64(s[j]) + a * np.float64(w[j])
        if score > best:
            best, selected = score, j
    return selected


@compiled
def bounds(selected: Any, sign: Any, w: Any, s: Any) -> Any:
    """`slotkit.latent.latent.interval` for one connection."""
    lower, upper = -math.inf, math.inf
    value, score = np.float64(w[selected]), sign * np.float64(s[selected])
    for j in range(len(w)):
        gap = np.float64(w[j]) - value
        crossing = (score - sign * np.float64(s[j])) / gap
        if gap > 0:
            upper = min(upper, crossing)
        elif gap < 0:
            lower = max(lower, crossing)
    return lower, upper


@compiled
def place(i: Any, layout: Any) -> Any:
    """Where connection i (row-major) lies in the memory of the weight."""
    shape, strides, row_major = layout
    if row_major:
        return i
    offset = 0
    for dimension in range(len(shape) - 1, -1, -1):
        offset += (i % shape[dimension]) * strides[dimension]
        i //= shape[dimension]
    return offset


@compiled
def advance_block(position: Any, velocity: Any, gradient: Any, h: Any) -> None:
    for i in range(len(position)):
        position[i], velocity[i] = advance_one(position[i], velocity[i], gradient[i], h)


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
    position: Any,
    lower: Any,
    upper: Any,
    line: Any,
    rule: Any,
    tables: Any,
    weight: Any,
    layout: Any,
) -> Any:
    """Choose anew wherever u left its interval, among the connections from `start` on. Returns the flips."""
    scale, c, sign = line
    flips = len(position) - count_inside(position, lower, upper, scale)
    if flips:
        w, s = np.empty(rule.k, np.float32), np.empty(rule.k, np.float32)
        for i in range(len(position)):
            u = position[i] * scale
            if not (u >= lower[i] and u <= upper[i]):
                connection = start + i
                fill_rows(connection, rule, tables[0], tables[1], w, s)
                selected = choose(np.float64(position[i]), c, w, s)
                lower[i], upper[i] = bounds(selected, sign, w, s)
                weight[place(connection, layout)] = w[selected]
    return flips


def step_all(
    position: Any,
    velocity: Any,
    gradient: Any,
    hyperparameters: Any,
    follows: Any,
    lower: Any,
    upper: Any,
    line: Any,
    numbers: Any,
    tables: Any,
    weight: Any,
    layout: Any,
) -> Any:
    """Advance the latents by the gradient (if there is one) and let the weight follow, block by block.

    `hyperparameters` and `numbers` are Hyperparameters and Rule as plain tuples, which numba takes in
    sooner than named ones.
    """
    h, rule = Hyperparameters(*hyperparameters), Rule(*numbers)
    flips = 0
    for block in numba.prange((len(position) + BLOCK - 1) // BLOCK):
        start, end = block * BLOCK, min((block + 1) * BLOCK, len(position))
        if len(gradient):
            advance_block(position[start:end], velocity[start:end], gradient[start:end], h)
        if follows:
            flips += settle_block(
                start,
                position[start:end],
                lower[start:end],
                upper[start:end],
                line,
                rule,
                tables,
                weight,
                layout,
            )
    return flips


step_parallel, step_serial = parallel(step_all), compiled(step_all)


@compiled
def draw_by_inversion(i: Any, a: Any, c: Any, uniform: Any, rule: Any, tables: Any, w: Any, s: Any) -> Any:
    """`slotkit.selection.sample` for one connection: exact, K exponentials. Returns the option."""
    fill_rows(i, rule, tables[0], tables[1], w, s)
    highest = -math.inf
    for j in range(rule.k):
        highest = max(highest, c * np.float64(s[j]) + a * np.float64(w[j]))
    total = 0.0
    for j in range(rule.k):
        total += math.exp(c * np.float64(s[j]) + a * np.float64(w[j]) - highest)
    rest = uniform * total
    for j in range(rule.k):
        rest -= math.exp(c * np.float64(s[j]) + a * np.float64(w[j]) - highest)
        if rest <= 0:
            return w[j]
    return w[choose(a, c, w, s)]


@compiled
def draw_one(
    i: Any, a: Any, c: Any, ceiling: Any, stream: Any, number: Any, rule: Any, tables: Any, w: Any, s: Any
) -> Any:
    """One option of connection i with the probabilities of softmax(c * S_k + a * W_k).

    Rejection: propose an option uniformly, accept it with probability exp(score - ceiling), where
    `ceiling` is at least every score. Exact, and a few tries whatever K is while scores are flat.
    """
    low, high = np.uint64(i) & WORD, np.uint64(i) >> HALF
    for attempt in range(ATTEMPTS // 2):
        place_of_try = high | (np.uint64(attempt) << np.uint64(16))
        words = philox_one(low, place_of_try, number, stream, rule.key_0, rule.key_1)
        for half in range(2):
            proposed = words[0] if half == 0 else words[2]
            accept = unit_uniform(words[1] if half == 0 else words[3])
            j = np.int64((proposed * np.uint64(rule.k)) >> HALF)
            option = option_of(i, j, rule, tables[0])
            below = c * np.float64(score_of(i, j, rule, tables[1])) + a * np.float64(option) - ceiling
            # exp(x) >= 1 + x spares most exponentials while scores are flat.
            if accept < 1 + below or accept < math.exp(below):
                return option
    words = philox_one(low, high | LAST_TRY, number, stream, rule.key_0, rule.key_1)
    return draw_by_inversion(i, a, c, np.float64(unit_uniform(words[0])), rule, tables, w, s)


@parallel
def draw_all(
    position: Any,
    c: Any,
    bounds_of: Any,
    stream: Any,
    number: Any,
    rule: Any,
    tables: Any,
    weight: Any,
    layout: Any,
) -> None:
    for block in numba.prange((len(position) + BLOCK - 1) // BLOCK):
        w, s = np.empty(rule.k, np.float32), np.empty(rule.k, np.float32)
        for i in range(block * BLOCK, min((block + 1) * BLOCK, len(position))):
            a = np.float64(position[i])
            spread = abs(a) * bounds_of[0]
            ceiling = abs(c) * bounds_of[1] + spread
            if ceiling < FLAT:
                option = draw_one(i, a, c, ceiling, stream, number, rule, tables, w, s)
            else:
                low, high = np.uint64(i) & WORD, np.uint64(i) >> HALF
                words = philox_one(low, high | LAST_TRY, number, stream, rule.key_0, rule.key_1)
                option = draw_by_inversion(i, a, c, np.float64(unit_uniform(words[0])), rule, tables, w, s)
            weight[place(i, layout)] = option


class Cpu:
    """See `slotkit.latent.engines.Engine`."""

    name = "numba"

    def step(self, weight: LatentWeight, gradient: Tensor, h: Hyperparameters) -> int:
        return self._run(weight, gradient.detach().reshape(-1).numpy(), h, weight.follows)

    def settle(self, weight: LatentWeight) -> int:
        return self._run(weight, NO_GRADIENT[weight.latent.dtype], NO_STEP, True)

    def _run(self, weight: LatentWeight, gradient: Any, h: Hyperparameters, follows: bool) -> int:
        line, fixed = weight.line, arguments_of(weight)
        kind = KINDS[weight.latent.dtype]
        # float32 would warn of the overflow; infinite is what it should be.
        scale = line.scale if line.scale < float(np.finfo(kind).max) else math.inf
        typed = (
            kind(h.lr),
            kind(h.momentum),
            kind(h.intake),
            h.nesterov,
            kind(h.weight_decay),
            kind(h.sign),
        )
        step = step_serial if len(fixed.position) <= SERIAL else step_parallel
        flips: int = step(
            fixed.position,
            fixed.velocity,
            gradient,
            typed,
            follows,
            fixed.lower,
            fixed.upper,
            (kind(scale), line.c, line.sign),
            fixed.numbers,
            fixed.tables,
            fixed.weight,
            fixed.layout,
        )
        torch.autograd.graph.increment_version(weight.parameter)
        return flips

    def draw(self, weight: LatentWeight, stream: int, number: int) -> None:
        fixed = arguments_of(weight)
        draw_all(
            fixed.position,
            weight.line.c,
            fixed.largest,
            np.uint64(stream + REJECTION),
            np.uint64(number),
            Rule(*fixed.numbers),
            fixed.tables,
            fixed.weight,
            fixed.layout,
        )
        torch.autograd.graph.increment_version(weight.parameter)


@dataclass(frozen=True)
class Arguments:
    """What the compiled loops are called with, put together once: doing it costs as much as a small step."""

    memory: int
    position: Any
    velocity: Any
    lower: Any
    upper: Any
    numbers: tuple[Any, ...]
    tables: tuple[Any, Any]
    largest: tuple[float, float]
    weight: Any
    layout: tuple[Any, Any, bool]


NO_STEP = Hyperparameters(0.0, 0.0, 0.0, False, 0.0, 0.0)
NO_GRADIENT = {dtype: np.zeros(0, kind) for dtype, kind in KINDS.items()}
NO_LAYOUT = np.zeros(0, np.int64)
NO_TABLES = (np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32))


def arguments_of(weight: LatentWeight) -> Arguments:
    """The arguments for a weight, anew if its memory has moved."""
    memory = weight.parameter.data_ptr()
    if weight.prepared is None or weight.prepared.memory != memory:
        tables = NO_TABLES if weight.tables is None else (weight.tables[0].numpy(), weight.tables[1].numpy())
        rule = rule_of(weight)
        weight.prepared = Arguments(
            memory,
            weight.latent.numpy(),
            weight.velocity.numpy(),
            weight.lower.numpy(),
            weight.upper.numpy(),
            tuple(rule),
            tables,
            largest_of(weight, rule),
            memory_of(weight.parameter),
            layout_of(weight.parameter),
        )
    prepared: Arguments = weight.prepared
    return prepared


def largest_of(weight: LatentWeight, rule: Rule) -> tuple[float, float]:
    """Bounds that no |option| and no |initial score| of the tensor exceeds.

    Those of the distribution where they are known, stored or not: a draw depends on them.
    """
    if isinstance(find_init(weight.reel.init), UniformInit) or weight.tables is None:
        return float(rule.bound), float(rule.bound * rule.score_scale)
    options, scores = (float(torch.linalg.vector_norm(table, math.inf)) for table in weight.tables)
    return options, scores


def memory_of(parameter: Tensor) -> Any:
    """The memory that the weight spans, as a flat array."""
    if parameter.is_contiguous():
        return parameter.detach().view(-1).numpy()
    span = 1 + sum(
        (size - 1) * stride for size, stride in zip(parameter.shape, parameter.stride(), strict=True)
    )
    return parameter.detach().as_strided((span,), (1,)).numpy()


def layout_of(parameter: Tensor) -> tuple[Any, Any, bool]:
    """Shape and strides (elements) of the weight, and whether it is row-major."""
    if parameter.is_contiguous():
        return NO_LAYOUT, NO_LAYOUT, True
    shape, strides = np.array(parameter.shape, np.int64), np.array(parameter.stride(), np.int64)
    return shape, strides, False


ENGINE = Cpu()
